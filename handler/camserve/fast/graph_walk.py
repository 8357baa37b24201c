"""The backward pass through a tail: several targets at once, and nothing multiplied by zero.

A target names a class or two of a thousand, and a ReLU lets half of a gradient through at most: where each operator of
the tail feeds the next alone, linear layers are pulled back by the rows of their weights that count. A vision
transformer's head reads one class token of hundreds, so all other rows of most gradients are exactly zero:
``IdleRows`` leaves these out. Automatic differentiation multiplies zeros like any other number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode

from camserve.fast.products import product

aten: Any = torch.ops.aten

# What heads are made of: with one output, so that one gradient is all a step wants, and an input that is not repeated
# to fit another, whose gradient autograd would add up. So no arithmetic of two tensors.
KNOWN = frozenset(
    f"{name}Backward"
    for name in (
        *("Addmm", "Mm", "Convolution", "NativeBatchNorm", "NativeLayerNorm"),
        *("Relu", "Hardtanh", "Hardswish", "Hardsigmoid", "Gelu", "Silu", "Sigmoid", "Tanh"),
        *("AdaptiveAvgPool2D", "AvgPool2D", "MaxPool2DWithIndices", "Mean", "Sum", "Amax"),
        *("Clone", "ToCopy", "View", "UnsafeView", "AsStrided", "Permute", "Transpose", "T"),
        *("Squeeze", "Unsqueeze", "Select", "Slice"),
    )
)
COPY = "CloneBackward0"
# Pooling hands each gradient on to positions of its own channel, and all of it.
POOLS = ("AdaptiveAvgPool2DBackward0", "MaxPool2DWithIndicesBackward0")
FLATTENINGS = ("ViewBackward0", "UnsafeViewBackward0")
MUCH = 4  # rows for each that is not zero, from which on picking these out is worth it


class Sums:
    """What linear layers' weights sum to over the positions that they read, each found once."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        """Know which weights stay what they are: any other may be a new one in every pass, in the same memory."""
        self._lasting = {each.data_ptr() for each in weights}
        self._found: dict[object, Tensor] = {}

    def of(self, weight: Tensor, positions: int) -> Tensor | None:
        """Return (out, K) float32 of a weight (out, K * positions); None: it does not stay what it is."""
        if weight.data_ptr() not in self._lasting:
            return None
        key = (weight.data_ptr(), weight.shape, positions, weight._version)
        if key not in self._found:
            self._found[key] = weight.view(len(weight), -1, positions).sum(dim=2, dtype=torch.float32)
        return self._found[key]


class Steps:
    """A tail on a CPU whose operators feed one another alone: the way back from scores (N, C) to an activation."""

    def __init__(self, way: list[tuple[Any, int]], scores: torch.Size, activation: torch.Size) -> None:
        """Go these steps, each with its input that leads on, from scores to an activation of these shapes."""
        self._way = way
        self._scores = scores
        self._activation = activation

    def gradient(self, weights: Tensor) -> Tensor:
        """Return d (weights . scores) / d activation, (S, *activation), for weights (S, N, C)."""
        return self._go(self._way, weights)

    def mean_gradient(self, weights: Tensor, sums: Sums) -> Tensor:
        """Return the mean over positions, (S, N, K) float32, of ``gradient`` at an activation (N, K, h, w).

        Behind pooling it is known before the gradient of any position is, and a linear layer that reads positions is
        read as the sum of its weights over these: 1/49 of it in a VGG.
        """
        way = list(self._way)
        while way and _keeps_sums(way[-1][0], self._activation):
            way.pop()
        summed = _summed(way[-2][0], way[-1][0], self._activation[1], sums) if len(way) > 1 else None
        if summed is None:
            gradient = self._go(way, weights)
            total = gradient.float().flatten(3).sum(dim=3) if gradient.dim() > 3 else gradient
        else:
            gradient = self._go(way[:-2], weights).to(summed)
            total = product(gradient.flatten(0, 1), summed).view(*gradient.shape[:2], -1)
        return total.float() / math.prod(self._activation[2:])

    @torch.no_grad()
    def _go(self, way: list[tuple[Any, int]], gradient: Tensor) -> Tensor:
        if gradient.shape[1:] != self._scores:
            raise RuntimeError(f"weights of {tuple(gradient.shape[1:])} do not fit scores of {tuple(self._scores)}")
        for node, onward in way:
            weight = _linear_weight(node)
            if weight is None:
                parts = [_step(node, onward, each) for each in gradient]
                gradient = torch.stack(parts) if len(parts) > 1 else parts[0][None]
            else:
                gradient = product(gradient.flatten(0, 1), weight).view(*gradient.shape[:2], -1)
        return gradient


def find_steps(scores: Tensor, activation: Tensor) -> Steps | None:
    """Return the way back from scores to an activation; None where it forks, or not all of it is known."""
    if scores.device.type != "cpu":
        return None
    end = (get_gradient_edge(activation).node, activation.output_nr)
    way: list[tuple[Any, int]] = []
    edge: tuple[Any, int] = (scores.grad_fn, scores.output_nr)
    while edge != end:
        node, output = edge
        if node is None or output or node.name().rstrip("0123456789") not in KNOWN:
            return None
        onward = [at for at, (before, _) in enumerate(node.next_functions) if before is not None]
        if len(onward) != 1:
            return None
        if node.name() != COPY:  # as ``Capture`` makes of every activation; its gradient is what came
            way.append((node, onward[0]))
        edge = node.next_functions[onward[0]]
    return Steps(way, scores.shape, activation.shape)


def operators(scores: Tensor) -> set[str]:
    """Return the names that autograd has for the ways back through all that scores (N, C) were made of."""
    known, waiting = set(), [scores.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in known:
            known.add(node)
            waiting += [before for before, _ in node.next_functions]
    return {node.name() for node in known}


def pull_back(scores: Tensor, activation: Tensor, weights: Tensor, *, idle_rows: bool = False) -> Tensor | None:
    """Return d (weights . scores) / d activation, (S, *activation.shape), for weights (S, N, C) of scores (N, C).

    The graph is kept. All S are pulled back in one pass, which reads the tail's own weights once. None: the scores do
    not depend on the activation.
    """
    several = len(weights) > 1  # or else none of what batching needs is asked of the operators
    with IdleRows() if idle_rows else nullcontext():  # type: ignore[no-untyped-call]
        (gradient,) = torch.autograd.grad(
            scores,
            activation,
            weights if several else weights[0],
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=several,
        )
    return gradient if several or gradient is None else gradient[None]


def _step(node: Any, onward: int, gradient: Tensor) -> Tensor:
    found = node(gradient)
    return found if isinstance(found, Tensor) else found[onward]


def _linear_weight(node: Any) -> Tensor | None:
    """Return the weight (out, in) where a step is a linear layer of rows (N, in)."""
    if node.name() not in ("AddmmBackward0", "MmBackward0") or getattr(node, "_saved_alpha", 1) != 1:
        return None
    if node._saved_mat2 is None:  # what is differentiated is not the rows
        return None
    weight: Tensor = node._saved_mat2.t()
    return weight if weight.is_contiguous() else None


def _keeps_sums(node: Any, shape: torch.Size) -> bool:
    """Whether what a step hands back of each channel of an activation (N, K, h, w) sums to what it was given."""
    if node.name() == "MeanBackward1":
        return {dimension % 4 for dimension in node._saved_dim} == {2, 3}
    if node.name() == "AsStridedBackward1":  # how global pooling says that its one position is channels-last
        pooled = node.next_functions[0][0]
        one_position = pooled.name() == "MeanBackward1" and pooled._saved_keepdim and _keeps_sums(pooled, shape)
        layout = (*shape[:2], 1, 1), (shape[1], 1)
        return one_position and (node._saved_size, node._saved_stride[:2]) == layout and not node._saved_storage_offset
    return node.name() in POOLS


@torch.no_grad()
def _summed(node: Any, before: Any, channels: int, sums: Sums) -> Tensor | None:
    """Return a linear layer's weight (out, K), summed over the positions of the (N, K, h, w) that it reads flat."""
    weight = _linear_weight(node)
    if weight is None or before.name() not in FLATTENINGS:
        return None
    read = before._saved_self_sym_sizes
    if len(read) != 4 or read[1] != channels or weight.shape[1] != math.prod(read[1:]):
        return None
    positions = read[2] * read[3]
    return weight if positions == 1 else sums.of(weight, positions)


class IdleRows(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is switched on, the operators of a backward pass leave out rows of a gradient that are all zero.

    A row is everything along the last axis. Finding rows makes the host wait for a GPU.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator on the rows that matter, where it has few of them, and else as it is."""
        shortened = SHORTENED.get(func)
        output = shortened(*args, **(kwargs or {})) if shortened is not None else None
        return func(*args, **(kwargs or {})) if output is None else output


def _busy(rows: Tensor) -> Tensor | None:
    """Return which of the rows (R, K) are not all zero, if they are few."""
    found = rows.any(dim=1).nonzero().flatten()
    return found if MUCH * len(found) < len(rows) else None


def _flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _scattered(found: Tensor, part: Tensor, size: tuple[int, ...]) -> Tensor:
    whole = part.new_zeros(size)
    whole.view(-1, size[-1])[found] = part
    return whole


def _mm(gradient: Tensor, weight: Tensor) -> Tensor | None:
    found = _busy(gradient)
    if found is None:
        return None
    return _scattered(found, gradient[found] @ weight, (len(gradient), weight.shape[1]))


def _bmm(gradient: Tensor, weight: Tensor) -> Tensor | None:
    """A linear layer over tokens that lie along the first axis is pulled back as one product a token."""
    if weight.stride(0) != 0:
        return None
    return (_flat(gradient) @ weight[0]).view(*gradient.shape[:2], -1)


def _gelu(gradient: Tensor, before: Tensor, approximate: str = "none") -> Tensor | None:
    found = _busy(_flat(gradient))
    if found is None:
        return None
    part = aten.gelu_backward(_flat(gradient)[found], _flat(before)[found], approximate=approximate)
    return _scattered(found, part, tuple(gradient.shape))


def _layer_norm(
    gradient: Tensor, before: Tensor, shape: list[int], mean: Tensor, rstd: Tensor, *others: Any
) -> tuple[Tensor, None, None] | None:
    *parameters, wanted = others
    if len(shape) != 1 or any(wanted[1:]) or (found := _busy(_flat(gradient))) is None:
        return None
    rows = [_flat(each)[found] for each in (gradient, before, mean, rstd)]
    part, _, _ = aten.native_layer_norm_backward(*rows[:2], shape, *rows[2:], *parameters, wanted)
    return _scattered(found, part, tuple(gradient.shape)), None, None


def _attention(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    _logsumexp: Tensor,
    dropout: float,
    causal: bool,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Pull back softmax(scale query . key) . value, (N, heads, L, K), from the few tokens that have a gradient."""
    if dropout or causal or attn_mask is not None:
        return None
    found = _busy(gradient.transpose(0, 2).flatten(1))
    if found is None:
        return None
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    gradient, asking, output = gradient[:, :, found], query[:, :, found], output[:, :, found]
    shares = (asking @ key.transpose(2, 3) * scale).softmax(dim=3)
    change = scale * shares * (gradient @ value.transpose(2, 3) - (gradient * output).sum(dim=3, keepdim=True))
    at_query = torch.zeros_like(query)
    at_query[:, :, found] = change @ key
    return at_query, change.transpose(2, 3) @ asking, shares.transpose(2, 3) @ gradient


SHORTENED: Mapping[Any, Callable[..., Any]] = {
    aten.mm.default: _mm,
    aten.bmm.default: _bmm,
    aten.gelu_backward.default: _gelu,
    aten.native_layer_norm_backward.default: _layer_norm,
    aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _attention,
}
