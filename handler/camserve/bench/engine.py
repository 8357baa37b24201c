"""What an explanation costs as a library: on top of the same network's plain forward pass."""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from camserve.bench.memory import cuda_peak, fresh_peak
from camserve.bench.networks import SIDE, Subject, build, ready, settle
from camserve.bench.pairs import Effort, Spread, Work, interleave, paired, spread
from camserve.bench.peers import ready_peers
from camserve.bench.photos import pixels
from camserve.errors import ConfigError
from camserve.labels import Labels
from camserve.settings import RuntimeSpec

TableName = Literal["overhead", "targets", "memory", "peers"]
Say = Callable[[str], None]

AT_ONCE = 8  # photos a batch, where it is not the batch that is varied
MOST = 32  # photos a batch, for memory
TOO_DEAR = "not measured: too slow for --quick"


@dataclass(frozen=True)
class Cell:
    """One ratio, or why there is none."""

    table: TableName
    model: str
    batch: int
    what: str  # what the ratio is of
    ratio: Spread | None = None
    base: Spread | None = None  # what the ratio is to: seconds, or bytes
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """What is measured, and how long."""

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


def measure_all(plan: Plan, say: Say) -> Iterator[Cell]:
    """Measure one model after the other."""
    for name in plan.models:
        say(f"{name}: building and probing")
        subject = ready(name, settle(build(name)), plan.runtime, plan.device)
        yield from measure(subject, plan, say)
        if name in plan.in_depth:
            say(f"{name}: peak memory")
            yield memory(subject, plan.device)
        del subject
        gc.collect()


def measure(subject: Subject, plan: Plan, say: Say, side: int = SIDE) -> Iterator[Cell]:
    """Measure the speed of one model."""
    pace = 0.0  # seconds a photo
    for batch in plan.batches:
        say(f"{subject.name}: explained / plain, batch {batch}")
        cell = overhead(subject, batch, plan, pace, side)
        if cell.base is not None:
            pace = cell.base.median / batch
        yield cell
    say(f"{subject.name}: {plan.classes[-1]} targets / 1 target")
    yield from targets(subject, plan, pace, side)
    if subject.name in plan.in_depth:
        say(f"{subject.name}: other libraries")
        yield from peers(subject, plan, side)


def overhead(subject: Subject, batch: int, plan: Plan, pace: float, side: int) -> Cell:
    """Measure an explained forward pass against a plain one."""
    name = "explained / plain"
    if not plan.allows(2 * batch * pace):
        return Cell("overhead", subject.name, batch, name, reason=TOO_DEAR)
    photos = pixels(batch, side, plan.device)
    works = {"plain": lambda: subject.plain(photos), "explained": lambda: subject.explained(photos)}
    times = interleave(works, plan.effort)
    return Cell("overhead", subject.name, batch, name, paired(times, "explained", "plain"), spread(times["plain"]))


def targets(subject: Subject, plan: Plan, pace: float, side: int) -> Iterator[Cell]:
    """Measure what further classes of the same rows cost."""
    names = {classes: f"{classes} / 1" for classes in plan.classes}
    further = plan.classes[1:]
    # Twice: an explained pass may cost more than the plain one, which sets the pace.
    if not plan.allows(2 * len(names) * AT_ONCE * pace):
        yield from (Cell("targets", subject.name, AT_ONCE, names[each], reason=TOO_DEAR) for each in further)
        return
    photos = pixels(AT_ONCE, side, plan.device)
    works = {names[each]: functools.partial(subject.explained, photos, each) for each in plan.classes}
    times = interleave(works, plan.effort)
    one = names[plan.classes[0]]
    for each in further:
        yield Cell("targets", subject.name, AT_ONCE, names[each], paired(times, names[each], one), spread(times[one]))


def peers(subject: Subject, plan: Plan, side: int) -> Iterator[Cell]:
    """Measure what other libraries cost for predictions and maps of the same batch."""
    photos = pixels(AT_ONCE, side, plan.device).to(subject.dtype)
    working, reasons = ready_peers(subject.network.classifier, subject.layer, photos)
    labels = Labels([f"class {number}" for number in range(subject.plain(photos).shape[1])])
    works: dict[str, Work] = {
        "plain": lambda: subject.plain(photos),
        "camserve": lambda: subject.explained(photos),
        "camserve, with its measures": lambda: subject.served(photos, labels),
        **{name: functools.partial(explain, photos) for name, explain in working.items()},
    }
    times = interleave(works, plan.effort)
    for name in list(works)[1:]:
        yield Cell("peers", subject.name, AT_ONCE, name, paired(times, name, "plain"), spread(times["plain"]))
    for name, reason in reasons.items():
        yield Cell("peers", subject.name, AT_ONCE, name, reason=reason)


def memory(subject: Subject, device: torch.device) -> Cell:
    """Measure the peak of an explained pass against a plain one, beyond the loaded model."""
    name = "explained / plain"
    try:
        plain, explained = (
            cuda_peak(subject, MOST, classes, device) if device.type == "cuda" else fresh_peak(subject, MOST, classes)
            for classes in (0, 1)
        )
    except ConfigError as error:
        return Cell("memory", subject.name, MOST, name, reason=str(error))
    return Cell("memory", subject.name, MOST, name, spread([explained / plain]), spread([plain]))
