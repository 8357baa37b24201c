"""The archives that are served: what answers for each now, and how a changed one takes its place."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ray import serve

from camserve.asgi.app import Served
from camserve.asgi.batches import read_rules
from camserve.asgi.metrics import Metrics, ModelSink
from camserve.asgi.on_ray.deployment import bind, count_workers, divide_machine, find_reason
from camserve.asgi.on_ray.model import RayModel
from camserve.build.mar.unpack import read_contents, unpacked
from camserve.errors import CamserveError, ConfigError
from camserve.files import sha256
from camserve.values import Progress

DEPLOYMENT = "replica"


@dataclass(frozen=True)
class _Running:
    """One application of Ray Serve."""

    application: str
    model: RayModel
    version: str
    sha256: str  # of the archive
    files: ExitStack  # its unpacked files, which go when it is closed


class Fleet:
    """Applications of Ray Serve, one an archive."""

    def __init__(self, archives: Sequence[Path], metrics: Metrics, report: Progress) -> None:
        """Load all archives. ConfigError: one does not load."""
        self._archives, self._metrics, self._report = archives, metrics, report
        self._workers = sum(count_workers(read_contents(path).config)[1] for path in archives)
        self._started = 0
        self._change = asyncio.Lock()
        self._running: dict[Path, _Running] = {}
        self.models: dict[str, Served] = {}  # what requests find
        try:
            for path in archives:
                self._take(path, self._load(path))
        except BaseException:  # Ctrl-C too
            self.close()
            raise

    def close(self) -> None:
        """Delete the unpacked files."""
        for running in self._running.values():
            running.files.close()

    async def change(self) -> None:
        """Let archives whose file has changed take the place of what answers now, when their replicas are ready.

        One that does not load changes nothing. No request is lost: each ends where it began.
        """
        async with self._change:
            for path in self._archives:
                try:
                    await self._change_one(path)
                except CamserveError as error:
                    self._report(f"{error}; the one before goes on")

    async def _change_one(self, path: Path) -> None:
        before = self._running[path]
        if sha256(path) == before.sha256:
            return
        loop = asyncio.get_running_loop()
        running = await loop.run_in_executor(None, self._load, path)
        running.model.start()
        self._take(path, running)
        self._report(f"{path.name}: version {running.version} answers now")
        await before.model.drain()
        await before.model.stop()
        await loop.run_in_executor(None, serve.delete, before.application)
        before.files.close()

    def _take(self, path: Path, running: _Running) -> None:
        self._running[path] = running
        self.models[path.stem] = Served(running.version, running.model)

    def _load(self, path: Path) -> _Running:
        self._report(f"loading {path.name}")
        self._started += 1
        application = f"{path.stem}@{self._started}"
        with ExitStack() as files:
            contents, folder = files.enter_context(unpacked(path))
            found, rules = sha256(path), read_rules(contents.config)
            bound = bind(DEPLOYMENT, str(folder), contents, rules, divide_machine(self._workers))
            try:
                handle = serve.run(bound, name=application, route_prefix=None)
            except RuntimeError:
                reason = find_reason(application)
                serve.delete(application)
                raise ConfigError(f"{path} does not load: {reason}") from None
            sink = ModelSink(self._metrics, path.stem, contents.version)
            model = RayModel(application, DEPLOYMENT, handle, rules, sink)
            model.count(handle.counted.remote().result())
            return _Running(application, model, contents.version, found, files.pop_all())
