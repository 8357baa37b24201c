"""Gradients without a backward pass: a tail of linear layers with pointwise functions between them.

The first layer reads the pooled activation (ResNet, EfficientNet, MobileNetV3) or all its positions (VGG, AlexNet). The
forward pass runs in inference mode and keeps one vector for each hidden layer and picture. The form is found by running
the network and taken only where scores and gradients agree with plain autograd's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from camserve.attribution.backward import PICTURES_AT_ONCE, Run
from camserve.attribution.capture import Capture, Tail
from camserve.attribution.find_head import agreement, as_matrix, random_pictures
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.linear_head import LinearHead
from camserve.attribution.objectives import Objectives
from camserve.errors import ConfigError
from camserve.network.hooks import ModuleCall, calls_of, first_tensor
from camserve.network.precision import full_precision
from camserve.values import InputShape, Layer

aten: Any = torch.ops.aten
ROUNDING = 1e-4  # of the largest value: two ways to compute one vector
MOST_LAYERS = 4
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)  # keep the sum of each channel's gradients
# What a form may consist of besides its functions, by the names of autograd's nodes: torch 2.14.
LINEAR = {"Addmm", "Mm", "Convolution", "Mean", "MaxPool2DWithIndices", "AvgPool2D", "AdaptiveAvgPool2D", "ToCopy"}
LINEAR |= {"View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Permute", "Transpose", "Slice", "Select"}
LINEAR |= {"Clone", "Split", "Cat", "AsStrided", "Alias"}


@dataclass(frozen=True)
class Pointwise:
    """A function of each output of a hidden layer."""

    node: str  # autograd's name for it: two functions may give the same on all values that are tried
    run: Callable[[Tensor], Tensor]
    pull_back: Callable[[Tensor, Tensor], Tensor]  # gradient after it, what it was given -> gradient before it


FUNCTIONS = (
    Pointwise("Relu", torch.relu, lambda gradient, given: aten.threshold_backward(gradient, given, 0)),
    Pointwise("Hardtanh", functional.relu6, lambda gradient, given: aten.hardtanh_backward(gradient, given, 0, 6)),
    Pointwise("Hardswish", functional.hardswish, aten.hardswish_backward),
    Pointwise("Silu", functional.silu, aten.silu_backward),
    Pointwise("Gelu", functional.gelu, aten.gelu_backward),
    Pointwise("Tanh", torch.tanh, lambda gradient, given: aten.tanh_backward(gradient, given.tanh())),
)


@dataclass(frozen=True)
class Linear:
    """One linear layer of the tail, with the function that follows it."""

    module: str  # dotted name
    weight: Tensor  # (M, J) float32
    bias: Tensor  # (M,) float32
    function: Pointwise | None = None  # None: of the last layer, whose outputs are the scores

    def run(self, vectors: Tensor) -> Tensor:
        """Return what the layer and its function make, (N, M), of vectors (N, J)."""
        given = vectors @ self.weight.T + self.bias
        return given if self.function is None else self.function.run(given)


class ClosedForm:
    """The gradients of a tail of linear layers, as a ``Backward``."""

    needs_graph = False
    pictures_at_once = PICTURES_AT_ONCE

    def __init__(self, layers: Sequence[Linear], channels: int, pooled: bool, reader: nn.Module | None = None) -> None:
        """Take the layers in their order; ``pooled`` says whether the first reads the mean of ``channels`` channels.

        Else it reads all positions of what ``reader`` makes of the activation, or of the activation itself.
        """
        self._hidden, self._last = layers[:-1], layers[-1]
        self._pooled, self._reader = pooled, reader
        self.functions = [layer.function for layer in layers if layer.function is not None]
        self.watched: Sequence[str] = [layer.module for layer in self._hidden]
        # A gradient's mean over positions needs no more of the first layer than its sum over them.
        self._summed = layers[0].weight.view(len(layers[0].weight), channels, -1).sum(dim=2)

    def mean_gradients(self, run: Run, objectives: Objectives) -> Tensor:
        """Return the mean over the positions of d objective / d activation, (T, K) float32."""
        return self._through(run, objectives, self._summed) / run.activations[0, 0].numel()

    def gradients(self, run: Run, objectives: Objectives) -> Tensor:
        """Return d objective / d activation, (T, K, h, w) float32."""
        if self._pooled:
            grid = run.activations.shape[2:]
            return self.mean_gradients(run, objectives)[:, :, None, None].expand(-1, -1, *grid)
        first = (*self._hidden, self._last)[0].weight
        return self._through_reader(objectives.spread(run.activations), self._through(run, objectives, first))

    def rescore(self, run: Run, activations: Tensor) -> Tensor:
        """Return the scores (N, C) of activations (N, K, h, w)."""
        run.check_time()
        return self.scores(activations)

    def scores(self, activations: Tensor) -> Tensor:
        """Return the scores (N, C) of activations (N, K, h, w)."""
        vectors = activations.mean(dim=(2, 3)) if self._pooled else self._read(activations)
        for layer in (*self._hidden, self._last):
            vectors = layer.run(vectors)
        return vectors

    def _read(self, activations: Tensor) -> Tensor:
        read = activations if self._reader is None else first_tensor(self._reader(activations))
        assert read is not None
        return read.flatten(1)

    def _through(self, run: Run, objectives: Objectives, first: Tensor) -> Tensor:
        """Return the gradients (T, J) before the first layer, whose weight is taken to be ``first`` (M, J)."""
        if not self._hidden:
            return objectives.combine(first)
        gradients = objectives.combine(self._last.weight)
        weights = [first, *(layer.weight for layer in self._hidden[1:])]
        for module, function, weight in reversed(list(zip(self.watched, self.functions, weights))):
            gradients = function.pull_back(gradients, objectives.spread(run.outputs[module])) @ weight
        return gradients

    def _through_reader(self, activations: Tensor, gradients: Tensor) -> Tensor:
        if self._reader is None:
            return gradients.view(activations.shape)
        with torch.inference_mode(False), torch.enable_grad():
            leaf = activations.clone().requires_grad_()
            (found,) = torch.autograd.grad(self._read(leaf), leaf, gradients.clone())
        return found


@full_precision()
def find_closed_form(network: nn.Module, layer: Layer, shape: InputShape, head: LinearHead | None) -> ClosedForm | None:
    """Return the closed form of what follows ``layer`` in a network with inputs of ``shape``, if there is one.

    A known linear ``head`` is one. ConfigError: as for ``Capture``.
    """
    if head is not None:
        return ClosedForm([Linear("", head.weight, head.bias)], head.weight.shape[1], pooled=True)
    steps = {name: module for name, module in network.named_modules() if name and _may_be_a_step(module)}
    pixels = random_pictures(network, shape)
    with calls_of(steps, copy=True) as calls, Capture(network, (layer,)) as capture:
        (output,) = capture.forward(pixels, tape=True)
    forms = _trace(network, output, calls, [], output.scores)
    return next((form for form in forms if _agrees(form, network, output)), None)


def _may_be_a_step(module: nn.Module) -> bool:
    """Whether a module is a linear layer or pooling; outputs of others need not be kept."""
    return isinstance(module, POOLS) or as_matrix(getattr(module, "weight", None)) is not None


def _agrees(form: ClosedForm, network: nn.Module, output: LayerOutput) -> bool:
    try:
        with Capture(network, (output.layer,), {output.layer.name: Tail(backward=form)}) as capture:
            (short,) = capture.forward(output.pixels)
    except ConfigError:  # a hidden layer runs more than once
        return False
    functions = [node for node in output.path() or () if node not in LINEAR]
    if functions != [function.node for function in reversed(form.functions)]:
        return False
    # Where functions that are alike far from zero differ.
    small = output.activations / output.activations.std()
    return agreement(output, form.scores, short.gradients, short.mean_gradients, (small,)) is not None


def _trace(
    network: nn.Module, output: LayerOutput, calls: Sequence[ModuleCall], layers: list[Linear], vectors: Tensor
) -> Iterator[ClosedForm]:
    """Return the forms whose last ``layers`` read ``vectors`` (2, M), by the values that modules took and gave."""
    for call in calls if len(layers) < MOST_LAYERS else ():
        for linear, read in _steps(network, call, vectors, last=not layers):
            chain, channels = [linear, *layers], output.activations.shape[1]
            if _same(read, output.activations.mean(dim=(2, 3))):
                yield ClosedForm(chain, channels, pooled=True)
            elif _same(read, output.activations.flatten(1)):
                yield ClosedForm(chain, channels, pooled=False)
            else:
                for reader in _poolings(network, output, calls, read):
                    yield ClosedForm(chain, channels, pooled=False, reader=reader)
                yield from _trace(network, output, calls, chain, read)


def _poolings(
    network: nn.Module, output: LayerOutput, calls: Sequence[ModuleCall], vectors: Tensor
) -> Iterator[nn.Module]:
    """Return the modules that pool the activation into ``vectors`` (2, J)."""
    for call in calls:
        module = network.get_submodule(call.name)
        if isinstance(module, POOLS) and _same(call.inputs[0], output.activations) and _same(call.copy, vectors):
            yield module


def _steps(network: nn.Module, call: ModuleCall, vectors: Tensor, last: bool) -> Iterator[tuple[Linear, Tensor]]:
    """Return the linear layers whose outputs make ``vectors`` (2, M), with the vectors (2, J) that they read."""
    weight = as_matrix(getattr(network.get_submodule(call.name), "weight", None))
    inputs = call.inputs[0] if call.inputs else None
    if weight is None or call.copy is None or not isinstance(inputs, Tensor) or len(inputs) != len(vectors):
        return
    given, read = call.copy.flatten(1).float(), inputs.detach().flatten(1).float()
    if given.shape != vectors.shape or weight.shape != (given.shape[1], read.shape[1]):
        return
    for function in (None,) if last else FUNCTIONS:
        if _same(given if function is None else function.run(given), vectors):
            yield Linear(call.name, weight, (given - read @ weight.T).mean(dim=0), function), read


def _same(one: Any, other: Tensor) -> bool:
    """Whether a tensor holds the values of another, in any shape, but for rounding."""
    if not isinstance(one, Tensor) or one.numel() != other.numel() or len(one) != len(other):
        return False
    one, other = one.detach().flatten(1), other.detach().flatten(1)
    return float((one - other).abs().max()) <= ROUNDING * float(other.abs().max())
