"""The archives that are served: what answers for each now, and how a changed one takes its place."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from camserve.asgi.app import Served
from camserve.asgi.batches import BatchRules, read_rules
from camserve.asgi.metrics import Metrics, ModelSink
from camserve.asgi.on_ray.deployment import ReplicaRequest, Replicas, bind, divide_machine, read_request, wait_for_start
from camserve.asgi.on_ray.model import RayModel
from camserve.build.mar.unpack import read_contents, unpacked
from camserve.errors import CamserveError, ConfigError, first_line
from camserve.files import sha256
from camserve.values import Progress

DEPLOYMENT = "replica"


@dataclass(frozen=True)
class _Running:
    """One application of Ray Serve."""

    application: str
    model: RayModel
    sink: ModelSink
    version: str
    sha256: str  # of the archive
    wanted: ReplicaRequest
    replicas: Replicas
    files: ExitStack  # its unpacked files, which go when it is closed


class Fleet:
    """Applications of Ray Serve, one an archive."""

    def __init__(self, archives: Sequence[Path], metrics: Metrics, report: Progress) -> None:
        """Load all archives. ConfigError: one does not load."""
        self._archives, self._metrics, self._report = archives, metrics, report
        self._wanted = {path: read_request(read_contents(path).config) for path in archives}
        self._is_over = threading.Event()
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
        self._is_over.set()
        for running in self._running.values():
            running.files.close()

    async def change(self) -> None:
        """Let archives whose file has changed take the place of what answers now, when their replicas are ready.

        One that does not load changes nothing. No request is lost: each ends where it began.
        """
        try:
            async with self._change:
                for path in self._archives:
                    await self._try_to_change(path)
        except asyncio.CancelledError:
            self._is_over.set()  # for the thread in which an archive may load
            raise

    async def _try_to_change(self, path: Path) -> None:
        try:
            running = await self._load_changed(path)
        except CamserveError as error:
            self._report(f"{error}; the one before goes on")
        except Exception as error:  # whatever Ray raises: this server goes on
            self._report(f"{path}: {type(error).__name__}: {first_line(error)}; the one before goes on")
        else:
            if running is not None:
                await self._replace(path, running)

    async def _load_changed(self, path: Path) -> _Running | None:
        loop = asyncio.get_running_loop()
        if await loop.run_in_executor(None, sha256, path) == self._running[path].sha256:
            return None
        return await loop.run_in_executor(None, self._load, path)

    async def _replace(self, path: Path, running: _Running) -> None:
        before = self._running[path]
        running.model.start()
        self._take(path, running)
        self._report(f"{path.name}: version {running.version} answers now")
        await before.model.drain()
        await before.model.stop()
        if before.sink.version != running.sink.version:  # else the gauges are those of both
            before.sink.close()
        await asyncio.get_running_loop().run_in_executor(None, self._delete, before.application)
        before.files.close()

    def _take(self, path: Path, running: _Running) -> None:
        self._running[path] = running
        self._wanted[path] = running.wanted
        self.models[path.stem] = Served(running.version, running.model)

    def _load(self, path: Path) -> _Running:
        self._report(f"loading {path.name}")
        found = sha256(path)  # first: a file that is renamed after this is taken at the next signal
        with ExitStack() as files:
            contents, folder = files.enter_context(unpacked(path))
            rules, wanted = read_rules(contents.config), read_request(contents.config)
            replicas = self._plan_replicas(path, wanted)
            bound = bind(DEPLOYMENT, str(folder), contents, rules, replicas.resources)
            self._started += 1
            application = f"{path.stem}@{self._started}"
            sink = ModelSink(self._metrics, path.stem, contents.version)
            try:
                model = self._start(application, bound, replicas, rules, sink)
            except Exception as error:
                if not self._is_over.is_set():  # else it ends with Ray
                    self._delete(application)
                if isinstance(error, ConfigError):
                    raise ConfigError(f"{path} does not load: {error}") from None
                raise
            return _Running(application, model, sink, contents.version, found, wanted, replicas, files.pop_all())

    def _start(self, application: str, bound: Any, replicas: Replicas, rules: BatchRules, sink: ModelSink) -> RayModel:
        target = serve.RunTarget(bound, application, route_prefix=None)
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        wait_for_start(application, replicas, self._is_over)
        model = RayModel(application, DEPLOYMENT, handle, rules, sink)
        model.count(handle.counted.remote().result())
        return model

    def _plan_replicas(self, path: Path, wanted: ReplicaRequest) -> Replicas:
        """Return the replicas of an archive beside all that runs, its former self too."""
        others = [one for other, one in self._wanted.items() if other != path]
        running = [one.replicas for one in self._running.values()]
        return divide_machine(ray.cluster_resources(), wanted, others, running)

    def _delete(self, application: str) -> None:
        try:
            serve.delete(application)
        except (RayError, RayServeException, TimeoutError) as error:
            self._report(f"the replicas of {application} may go on: {first_line(error)}")
