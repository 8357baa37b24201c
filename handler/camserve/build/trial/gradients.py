"""Whether the gradients that an archive's maps are made of are those of its scores.

A backward pass is code too: torch's batch normalisation on a CPU gives wrong numbers for a single picture whose
gradient lies in another order in memory than its input (2.14.1). Finite differences do without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from camserve.attribution.capture import Capture
from camserve.attribution.grid import off_grid
from camserve.attribution.methods import METHODS
from camserve.attribution.objectives import Objectives
from camserve.build.trial.contract import takes_channels_last
from camserve.build.trial.float64 import in_float64
from camserve.errors import ConfigError
from camserve.network.output import ScoringNetwork
from camserve.serving.batch import Classifier
from camserve.settings import RuntimeSpec, Settings
from camserve.values import Layer, Progress

SMALLER_STEP = 0.25  # of a step: what it changes tells how far the difference can be believed
BELIEVED = 0.1  # of the disagreement with the backward pass


@dataclass(frozen=True)
class _Precision:
    """How a finite difference is taken."""

    double: bool
    step: float  # of each activation
    tolerance: float  # of the norm of gradient times activation


PRECISIONS = (_Precision(True, 1e-4, 0.01), _Precision(False, 0.03, 0.1))


@dataclass(frozen=True)
class _Served:
    """What a served network gives for one picture at one layer."""

    layer: Layer
    index: int  # of the class with the largest score
    activations: Tensor  # (1, K, h, w) float64
    evidence: Tensor  # gradient of the class's score times activation, (1, K, h, w) float64


@dataclass(frozen=True)
class Fault:
    """How a score changes along one direction at a layer, by two ways that disagree."""

    layer: str
    backward: float
    finite: float


def choose_runtime(
    network: ScoringNetwork,
    settings: Settings,
    load: Callable[[Settings], Classifier],
    pixels: Tensor,
    report: Progress,
) -> tuple[RuntimeSpec, Classifier | None]:
    """Return the runtime of ``settings``, or the first like it whose gradients agree with finite differences.

    Beside it stands what was loaded to find that out, where it is what a server on a CPU would load.

    ``network`` is the archive's as it was written, float32 on the CPU, and ``load`` loads it; ``pixels`` is one
    picture, (1, C, H, W), since a request usually comes alone. ``report`` gets a line for each switch. ConfigError:
    gradients are wrong with every one.
    """
    if not any(METHODS[method].gradients for method in settings.methods):
        return settings.runtime, None
    first: Fault | None = None
    for runtime in _similar(network, settings.runtime, pixels):
        plain = replace(runtime, mode="eager", precision="fp32")  # whose rounding does not hide a fault
        classifier = load(replace(settings, runtime=plain))
        shown = pixels.contiguous(memory_format=torch.channels_last if plain.channels_last else torch.contiguous_format)
        fault = find_fault(network, classifier, settings.layers, shown, report)
        if fault is None:
            if first is not None:
                report(f"{_switched(settings.runtime, runtime)}, since without it {_word(first)}")
            return runtime, classifier if runtime == plain else None
        first = first or fault
    assert first is not None
    raise ConfigError(
        f"{_word(first)}; does the network's code have a backward pass of its own, or detach() a part? If it is to "
        "stay, methods that need no gradient explain it: methods: [reciprocam]"
    )


def _similar(network: ScoringNetwork, runtime: RuntimeSpec, pixels: Tensor) -> Iterator[RuntimeSpec]:
    yield runtime
    if runtime.channels_last or takes_channels_last(network, pixels, lambda _line: None):
        yield replace(runtime, channels_last=not runtime.channels_last)
    if runtime.mode == "eager":
        yield replace(runtime, fast=not runtime.fast)


def _switched(before: RuntimeSpec, after: RuntimeSpec) -> str:
    name = "fast" if before.fast != after.fast else "channels_last"
    return f"runtime.{name}: {str(getattr(after, name)).lower()}"


def _word(fault: Fault) -> str:
    return (
        f"the gradients at {fault.layer} are wrong (torch {torch.__version__}): along one direction the score's "
        f"derivative is {fault.finite:.3g} by finite differences and {fault.backward:.3g} by the backward pass"
    )


def find_fault(
    network: ScoringNetwork, classifier: Classifier, layers: Sequence[Layer], pixels: Tensor, report: Progress
) -> Fault | None:
    """Return the fault of the first of a classifier's layers that has one; None: its gradients are right.

    ``network`` is the same network as it was written, ``pixels`` is one picture, (1, C, H, W). ``report`` gets a line
    where finite differences do not converge.
    """
    faults = (_compare(network, _serve(classifier, layer, pixels), pixels, report) for layer in layers)
    return next((fault for fault in faults if fault is not None), None)


def _serve(classifier: Classifier, layer: Layer, pixels: Tensor) -> _Served:
    with Capture(classifier.network, (layer,), classifier.tails) as capture:
        (output,) = capture.forward(pixels)
        objectives = Objectives.of_top_classes(output.scores)
        evidence = output.gradients(objectives).double() * output.activations.double()
    return _Served(layer, int(output.scores.argmax()), output.activations.double(), evidence)


def _compare(network: ScoringNetwork, served: _Served, pixels: Tensor, report: Progress) -> Fault | None:
    """Compare one derivative that the gradient gives with finite differences of the plain network, float64 first."""
    direction = _direction(served.evidence)
    backward = float((served.evidence * direction).sum())
    norm = float(served.evidence.norm())
    for precision in PRECISIONS:
        slopes = _slopes(network, served, direction, pixels, precision)
        finite = next(slopes)
        apart = abs(backward - finite) if math.isfinite(finite) else math.inf
        if apart <= precision.tolerance * norm:
            return None
        if abs(finite - next(slopes)) <= BELIEVED * apart < math.inf:
            return Fault(served.layer.name, backward, finite)
    report(f"the gradients at {served.layer.name} were not checked: finite differences do not converge there")
    return None


def _direction(evidence: Tensor) -> Tensor:
    """Return by what share each activation moves.

    Noise finds any wrong number, and the evidence's own direction what is wrong altogether. A share, so that zeros stay
    what they are: many are ties of a maximum, or lie at the bend of a ReLU.
    """
    noise = torch.randn(evidence.shape, generator=torch.Generator().manual_seed(0), dtype=evidence.dtype)
    return noise + torch.nn.functional.normalize(evidence.flatten(), dim=0).reshape(evidence.shape)


def _slopes(
    network: ScoringNetwork, served: _Served, direction: Tensor, pixels: Tensor, precision: _Precision
) -> Iterator[float]:
    """Yield central differences of the class's score, of a step and of a smaller one; NaN: the network fails."""
    for step in (precision.step, precision.step * SMALLER_STEP):
        moved = torch.cat([served.activations * (1 + sign * step * direction) for sign in (1, -1)])
        try:
            high, low = _score(network, served, moved, pixels, precision.double)
        except Exception:  # code of the network's own, which may name float32
            yield math.nan
        else:
            yield (high - low) / (2 * step)


def _score(network: ScoringNetwork, served: _Served, moved: Tensor, pixels: Tensor, double: bool) -> list[float]:
    """Return the class's scores of two pictures whose activations are ``moved``, (2, K, h, w)."""
    dtype = torch.float64 if double else torch.float32
    shown = pixels.expand(2, -1, -1, -1).to(dtype).contiguous()
    handle = network.get_submodule(served.layer.name).register_forward_hook(_Replace(served.layer, moved.to(dtype)))
    try:
        with torch.no_grad(), in_float64(network) if double else nullcontext():
            scores: list[float] = network(shown)[:, served.index].tolist()
    finally:
        handle.remove()
    return scores


class _Replace:
    """A forward hook that hands on other activations in the place of one call's output."""

    def __init__(self, layer: Layer, activations: Tensor) -> None:
        self._layer, self._activations = layer, activations
        self._calls_to_go = layer.call

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        self._calls_to_go -= 1
        if self._calls_to_go != -1:
            return None
        first = output if isinstance(output, Tensor) else output[0]
        other = off_grid(self._activations, self._layer, first)
        return other if isinstance(output, Tensor) else (other, *output[1:])
