"""The cost of an explanation as a library, relative to a plain forward pass of the same network."""

from __future__ import annotations

import copy
import functools
import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from camserve.bench.memory import measure_cuda_peak, measure_fresh_peak
from camserve.bench.networks import SIDE, BenchNetwork, build_classifier, make_subject, settle_statistics
from camserve.bench.onnx_runtime import ONNX_RUNTIME, onnx_runtime_work
from camserve.bench.openvino import ALONE, openvino_works
from camserve.bench.pairs import Effort, Spread, Work, spread_of, summarise_ratios, time_in_turns
from camserve.bench.peers import make_peers
from camserve.bench.photos import load_pixels
from camserve.errors import CompilationUnavailable, ConfigError
from camserve.labels import Labels
from camserve.settings import RuntimeSpec
from camserve.values import Progress

TableName = Literal["overhead", "targets", "memory", "peers", "openvino"]

COMPARED_BATCH = 8  # photos a batch, where it is not the batch that is varied
MEMORY_BATCH = 32  # photos a batch, for memory
TOO_SLOW = "not measured: too slow for --quick"


@dataclass(frozen=True)
class EngineCell:
    """One ratio, or why there is none."""

    table: TableName
    model: str
    batch: int
    what: str  # what the ratio is of
    ratio: Spread | None = None
    base: Spread | None = None  # what the ratio is to: seconds, or bytes
    reason: str = ""


@dataclass(frozen=True)
class EnginePlan:
    """What the engine benchmark measures, and for how long."""

    models: Sequence[str]
    batches: Sequence[int]
    effort: Effort
    classes: Sequence[int]  # of one row that are explained at once; the first is 1
    in_depth: Sequence[str]  # models whose memory, and whose cost in other libraries, is measured too
    runtime: RuntimeSpec
    device: torch.device
    deadline: float = float("inf")  # of time.monotonic(), after which no table cell begins

    def allows(self, seconds: float) -> bool:
        """Whether there is time for a cell whose every round takes so long."""
        return self.effort.allows(seconds) and time.monotonic() + self.effort.least(seconds) < self.deadline


def measure_models(plan: EnginePlan, report: Progress) -> Iterator[EngineCell]:
    """Measure one model after the other."""
    for name in plan.models:
        report(f"{name}: building and probing")
        subject = make_subject(name, settle_statistics(build_classifier(name)), plan.runtime, plan.device)
        yield from measure_model(subject, plan, report)
        if name in plan.in_depth:
            report(f"{name}: peak memory")
            yield measure_memory(subject, plan.device)
        del subject
        gc.collect()


def measure_model(subject: BenchNetwork, plan: EnginePlan, report: Progress, side: int = SIDE) -> Iterator[EngineCell]:
    """Measure the speed of one model."""
    pace = 0.0  # seconds a photo
    for batch in plan.batches:
        report(f"{subject.name}: explained / plain, batch {batch}")
        cell = measure_overhead(subject, batch, plan, pace, side)
        if cell.base is not None:
            pace = cell.base.median / batch
        yield cell
    report(f"{subject.name}: {plan.classes[-1]} targets / 1 target")
    yield from measure_targets(subject, plan, pace, side)
    if subject.name in plan.in_depth:
        report(f"{subject.name}: other libraries")
        yield from measure_peers(subject, plan, side)
        if plan.device.type == "cpu":
            report(f"{subject.name}: OpenVINO")
            yield from measure_openvino(subject, plan, side)


def measure_overhead(subject: BenchNetwork, batch: int, plan: EnginePlan, pace: float, side: int) -> EngineCell:
    """Measure an explained forward pass against a plain one."""
    name = "explained / plain"
    if not plan.allows(2 * batch * pace):
        return EngineCell("overhead", subject.name, batch, name, reason=TOO_SLOW)
    photos = load_pixels(batch, side, plan.device)
    works = {"plain": lambda: subject.predict(photos), "explained": lambda: subject.explain(photos)}
    times = time_in_turns(works, plan.effort)
    return EngineCell(
        "overhead", subject.name, batch, name, summarise_ratios(times, "explained", "plain"), spread_of(times["plain"])
    )


def measure_targets(subject: BenchNetwork, plan: EnginePlan, pace: float, side: int) -> Iterator[EngineCell]:
    """Measure what further classes of the same rows cost."""
    names = {count: f"{count} / 1" for count in plan.classes}
    further = plan.classes[1:]
    # Twice: an explained pass may cost more than the plain one, which sets the pace.
    if not plan.allows(2 * len(names) * COMPARED_BATCH * pace):
        yield from (
            EngineCell("targets", subject.name, COMPARED_BATCH, names[count], reason=TOO_SLOW) for count in further
        )
        return
    photos = load_pixels(COMPARED_BATCH, side, plan.device)
    works = {names[count]: functools.partial(subject.explain, photos, count) for count in plan.classes}
    times = time_in_turns(works, plan.effort)
    one = names[plan.classes[0]]
    base = spread_of(times[one])
    for count in further:
        ratio = summarise_ratios(times, names[count], one)
        yield EngineCell("targets", subject.name, COMPARED_BATCH, names[count], ratio, base)


def measure_peers(subject: BenchNetwork, plan: EnginePlan, side: int) -> Iterator[EngineCell]:
    """Measure what other libraries cost for predictions and maps of the same batch."""
    photos = load_pixels(COMPARED_BATCH, side, plan.device).to(subject.dtype)
    working, reasons = make_peers(subject.network.classifier, subject.layer, photos)
    labels = Labels([f"class {number}" for number in range(subject.predict(photos).shape[1])])
    works: dict[str, Work] = {
        "plain": lambda: subject.predict(photos),
        "camserve": lambda: subject.explain(photos),
        "camserve, with its measures": lambda: subject.answer(photos, labels),
        **{name: functools.partial(explain, photos) for name, explain in working.items()},
    }
    times = time_in_turns(works, plan.effort)
    for name in list(works)[1:]:
        yield EngineCell(
            "peers",
            subject.name,
            COMPARED_BATCH,
            name,
            summarise_ratios(times, name, "plain"),
            spread_of(times["plain"]),
        )
    for name, reason in reasons.items():
        yield EngineCell("peers", subject.name, COMPARED_BATCH, name, reason=reason)


def measure_openvino(subject: BenchNetwork, plan: EnginePlan, side: int) -> Iterator[EngineCell]:
    """Measure what answers cost beside OpenVINO's plain prediction with the whole network, and ONNX Runtime's."""
    photos = load_pixels(COMPARED_BATCH, side, plan.device)
    try:
        works = openvino_works(subject, photos, side)
    except CompilationUnavailable as error:
        yield EngineCell("openvino", subject.name, COMPARED_BATCH, ALONE, reason=str(error))
        return
    try:
        if subject.dtype != torch.float32:
            raise CompilationUnavailable("not measured: it is compared in fp32 alone")
        works[ONNX_RUNTIME] = onnx_runtime_work(_plain_copy(subject), photos)
    except CompilationUnavailable as error:
        yield EngineCell("openvino", subject.name, COMPARED_BATCH, ONNX_RUNTIME, reason=str(error))
    times = time_in_turns(works, plan.effort)
    base = spread_of(times[ALONE])
    for name in list(works)[1:]:
        yield EngineCell("openvino", subject.name, COMPARED_BATCH, name, summarise_ratios(times, name, ALONE), base)


def _plain_copy(subject: BenchNetwork) -> torch.nn.Module:
    """Return the network itself, on its own, with its weights unpacked."""
    return copy.deepcopy(subject.network.classifier).float().eval()


def measure_memory(subject: BenchNetwork, device: torch.device) -> EngineCell:
    """Measure the peak of an explained pass against a plain one, beyond the loaded model."""
    name = "explained / plain"
    try:
        plain, explained = (
            measure_cuda_peak(subject, MEMORY_BATCH, classes, device)
            if device.type == "cuda"
            else measure_fresh_peak(subject, MEMORY_BATCH, classes)
            for classes in (0, 1)
        )
    except ConfigError as error:
        return EngineCell("memory", subject.name, MEMORY_BATCH, name, reason=str(error))
    return EngineCell("memory", subject.name, MEMORY_BATCH, name, spread_of([explained / plain]), spread_of([plain]))
