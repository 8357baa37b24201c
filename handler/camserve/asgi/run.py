"""Loading archives into this process and serving them until a signal comes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from camserve.asgi.app import Served
from camserve.asgi.batches import Batches, may_use_gpu, read_rules
from camserve.asgi.listen import listen
from camserve.asgi.metrics import Metrics, ModelSink
from camserve.build.mar.unpack import unpacked
from camserve.serving.engines.answering import Answering, load_worker, recorders_into
from camserve.serving.load import device_of
from camserve.values import Progress


def serve(archives: Sequence[Path], port: int, folder: Path, report: Progress) -> int:
    """Serve on loopback until a signal comes; return the exit status. ConfigError: an archive does not load."""
    metrics = Metrics()
    with ExitStack() as stack:
        models = {path.stem: _load(path, metrics, stack, report) for path in archives}
        listen(models, metrics, port, folder, report)
    return 0


def _load(path: Path, metrics: Metrics, stack: ExitStack, report: Progress) -> Served:
    report(f"loading {path.name}")
    contents, folder = stack.enter_context(unpacked(path))
    if (workers := int(contents.config.get("minWorkers", 1))) > 1:
        report(f"{path.name}: minWorkers is {workers}; this process is one worker, which uses all cores")
    config: dict[str, Any] = {**contents.config, "minWorkers": 1}
    rules = read_rules(config)
    device = device_of(0 if may_use_gpu(config) else None)
    pipeline = load_worker(folder, config, contents.name, contents.version, device, rules.size)
    pipeline.monitor.report_to(*recorders_into(ModelSink(metrics, path.stem, contents.version), pipeline))
    return Served(contents.version, Batches(Answering(pipeline), rules))
