"""The handler of a profiled worker: the processor's time of every step, in the place of an archive's own handler.

TorchServe takes its batches in one thread. A step gets what all threads of the process computed while that thread was
in it, but for the steps inside it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from camserve.attribution.capture import Capture
from camserve.monitor import Monitor
from camserve.serving.engines.answering import Answering
from camserve.serving.engines.torchserve import TorchServeHandler
from camserve.serving.pipeline import Pipeline

PROFILE = "profile.json"  # in the folder of the unpacked archive; `camserve bench --profile` reads it there
OUTSIDE, OWN = "send", "profile"  # steps: outside all others, and what the profile itself takes


class Ledger:
    """The seconds of the processor that each step took; one thread opens and closes them."""

    def __init__(self) -> None:
        """Begin outside of all steps."""
        self.seconds: dict[str, float] = {}
        self.answers = 0
        self._open = [OUTSIDE]
        self._since = time.process_time()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Charge the block to a step."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def charge_calls(self, place: Any, name: str, step: str) -> None:
        """Charge every further call of a function, by its name in a module or class, to a step."""
        work: Callable[..., Any] = getattr(place, name)

        def charged(*args: Any, **options: Any) -> Any:
            with self.step(step):
                return work(*args, **options)

        setattr(place, name, charged)

    def _charge(self) -> None:
        now = time.process_time()
        self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now


def charge_steps(ledger: Ledger) -> None:
    """Charge the steps of TorchServe's worker and of camserve that run in the thread which takes the batches."""
    service: Any = import_module("ts.service")
    places = (
        (sys.modules["__main__"], "retrieve_msg", "wait"),
        (import_module("ts.protocol.otf_message_handler"), "_retrieve_inference_msg", "receive"),
        (service.Service, "predict", "protocol"),
        (service, "create_predict_response", "encode"),
        (Answering, "answer", "rows"),
        (Pipeline, "answer", "batch"),
        (Pipeline, "_write", "JSON"),
        (Capture, "forward", "network"),
        (Monitor, "observe", "monitor"),
        (Monitor, "end", "monitor"),
    )
    for place, name, step in places:
        ledger.charge_calls(place, name, step)
    Monitor.stage = _charged_stage(ledger, Monitor.stage)  # type: ignore[method-assign]


def _charged_stage(ledger: Ledger, stage: Callable[..., AbstractContextManager[None]]) -> Callable[..., Any]:
    @contextmanager
    def charged(monitor: Monitor, name: str) -> Iterator[None]:
        with ledger.step(name), stage(monitor, name):
            yield

    return charged


_handler = TorchServeHandler()
_ledger = Ledger()


def handle(data: Sequence[Mapping[str, object]] | None, context: Any) -> list[bytes] | None:
    """Answer a batch, and write what was spent until now beside the archive's files; without ``data``, load these."""
    if data is None:
        _handler.initialize(context)
        charge_steps(_ledger)
        return None
    with _ledger.step("handler"):
        bodies = _handler.handle(data, context)
    with _ledger.step(OWN):
        _ledger.answers += len(bodies)
        seconds = {name: spent for name, spent in _ledger.seconds.items() if name != OWN}
        written = json.dumps({"answers": _ledger.answers, "seconds": seconds})
        (Path(context.system_properties["model_dir"]) / PROFILE).write_text(written, encoding="utf-8")
    return bodies
