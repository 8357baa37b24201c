"""What each shortcut of ``fast/`` gains: the same work without it and with it, in turns."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from camserve.attribution.capture import Tail
from camserve.bench.networks import SIDE, BenchNetwork, build_classifier, load_subject, photo_shape, settle_statistics
from camserve.bench.openvino import in_openvino
from camserve.bench.pairs import Effort, Spread, summarise_ratios, time_in_turns
from camserve.bench.photos import load_pixels
from camserve.bench.report import BenchReport, Table, format_spread
from camserve.build.probe import find_layer
from camserve.errors import CompilationUnavailable
from camserve.fast.export import example
from camserve.fast.fold import fold
from camserve.fast.packing import can_pack, pack, packable
from camserve.fast.prepare import Prepared
from camserve.network.output import ScoringNetwork
from camserve.network.precision import full_precision
from camserve.settings import RuntimeSpec
from camserve.values import Progress

Pair = tuple[BenchNetwork, BenchNetwork]  # with a shortcut, and without it
Variant = Callable[[BenchNetwork, ScoringNetwork, torch.device], Pair]


@dataclass(frozen=True)
class Gain:
    """One shortcut on one network: the time without it over the time with it."""

    shortcut: str
    model: str
    batch: int
    ratio: Spread | None = None
    reason: str = ""  # why there is no ratio


def measure_gains(
    models: Sequence[str],
    batches: Sequence[int],
    effort: Effort,
    runtime: RuntimeSpec,
    device: torch.device,
    report: Progress,
) -> Iterator[Gain]:
    """Measure every shortcut on every named network of torchvision; below float32, some of them."""
    for name in models:
        plain = ScoringNetwork(settle_statistics(build_classifier(name))).eval().requires_grad_(False)
        subject = load_subject(name, copy.deepcopy(plain), find_layer(plain, photo_shape(SIDE)), runtime, device)
        for shortcut, variant in VARIANTS.items():
            if runtime.precision != "fp32" and variant in IN_FLOAT32:
                continue
            report(f"{name}: {shortcut}")
            try:
                pair = variant(subject, copy.deepcopy(plain).to(device), device)
            except CompilationUnavailable as error:
                yield from (Gain(shortcut, name, batch, reason=str(error)) for batch in batches)
                continue
            yield from (_measure_gain(shortcut, name, batch, pair, effort, device) for batch in batches)


def _measure_gain(shortcut: str, model: str, batch: int, pair: Pair, effort: Effort, device: torch.device) -> Gain:
    photos = load_pixels(batch, SIDE, device)
    works = {name: partial(subject.explain, photos) for name, subject in zip(("with", "without"), pair)}
    return Gain(shortcut, model, batch, summarise_ratios(time_in_turns(works, effort), "without", "with"))


def make_gains_report(gains: Sequence[Gain], command: str, machine: Mapping[str, str]) -> BenchReport:
    """Return the table of the gains."""
    rows = [
        (gain.shortcut, gain.model, str(gain.batch), gain.reason if gain.ratio is None else format_spread(gain.ratio))
        for gain in gains
    ]
    table = Table("Time without a shortcut / with it", ("shortcut", "network", "batch", "gain"), rows)
    return BenchReport("shortcuts", command, machine, [table], [], list(gains))


def _backward(subject: BenchNetwork, _network: ScoringNetwork, _device: torch.device) -> Pair:
    tails = {name: Tail(tail.head) for name, tail in subject.prepared.tails.items()}
    return subject, replace(subject, prepared=Prepared(subject.prepared.network, tails))


@full_precision()
def _rewritten(
    subject: BenchNetwork, network: ScoringNetwork, device: torch.device, folds: bool, packs: bool, channels_last: bool
) -> BenchNetwork:
    """Return the subject with some of what ``fast.prepare.rewrite`` does, in float32."""
    sample = example(photo_shape(SIDE), torch.float32, device)
    if folds:
        fold(network, {subject.layer.name}, sample)
    biases = packable(network, (subject.layer,), sample) if packs and can_pack(torch.float32, device) else {}
    if channels_last:
        network.to(memory_format=torch.channels_last)
    pack(network, biases, sample)
    return replace(subject, network=network, prepared=Prepared(network, subject.prepared.tails))


def _folding(subject: BenchNetwork, network: ScoringNetwork, device: torch.device) -> Pair:
    return subject, _rewritten(subject, network, device, folds=False, packs=True, channels_last=True)


def _packing(subject: BenchNetwork, network: ScoringNetwork, device: torch.device) -> Pair:
    return subject, _rewritten(subject, network, device, folds=True, packs=False, channels_last=True)


def _channels_last(subject: BenchNetwork, network: ScoringNetwork, device: torch.device) -> Pair:
    return subject, _rewritten(subject, network, device, folds=True, packs=False, channels_last=False)


def _one_token(subject: BenchNetwork, network: ScoringNetwork, device: torch.device) -> Pair:
    if not subject.layer.prefix:
        raise CompilationUnavailable("the layer has no class token that a head could read alone")
    longer = in_openvino(subject, copy.deepcopy(network), device, shortens=False)
    return in_openvino(subject, network, device), longer


def _openvino(subject: BenchNetwork, network: ScoringNetwork, device: torch.device) -> Pair:
    return in_openvino(subject, network, device), subject


VARIANTS: Mapping[str, Variant] = {
    "closed form, zero rows": _backward,
    "folding": _folding,
    "packing": _packing,
    "packing and channels last": _channels_last,
    "one token": _one_token,
    "OpenVINO": _openvino,
}
IN_FLOAT32 = (_folding, _packing, _channels_last)  # alone
