"""The backward pass through a tail: several targets at once, and nothing multiplied by zero.

A target names a class or two of a thousand, and a ReLU lets half of a gradient through at most: where each operator of
the tail feeds the next alone, linear layers are pulled back by the rows of their weights that count. A vision
transformer's head reads one class token of hundreds, so all other rows of most gradients are exactly zero:
``IdleRows`` leaves these out. Automatic differentiation multiplies zeros like any other number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode

aten: Any = torch.ops.aten

SUM = 0  # torch.embedding_bag's number for it
# What heads are made of: with one output, so that one gradient is all a step wants, and an input that is not repeated
# to fit another, whose gradient autograd would add up. So no arithmetic of two tensors.
STEPS = frozenset(
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
LONG = 256  # rows of a weight, from which on adding them up is worth a second thread
MUCH = 4  # rows for each that is not zero, from which on picking these out is worth it


def pull_back(scores: Tensor, activation: Tensor, weights: Tensor, *, idle_rows: bool = False) -> Tensor | None:
    """Return d (weights . scores) / d activation, (S, *activation.shape), for weights (S, N, C) of scores (N, C).

    The graph is kept. All S are pulled back in one pass, which reads the tail's own weights at most once. None: the
    scores do not depend on the activation.
    """
    if weights.shape[1:] != scores.shape:
        raise RuntimeError(f"weights of {tuple(weights.shape[1:])} do not fit scores of {tuple(scores.shape)}")
    chain = _chain(scores, activation) if scores.device.type == "cpu" else None
    if chain is not None:
        return _along(chain, weights)
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


def _chain(scores: Tensor, activation: Tensor) -> list[tuple[Any, int]] | None:
    """Return the steps from scores back to the activation, each with the input that leads on; None where they fork."""
    end = (get_gradient_edge(activation).node, activation.output_nr)
    chain: list[tuple[Any, int]] = []
    edge: tuple[Any, int] = (scores.grad_fn, scores.output_nr)
    while edge != end:
        node, output = edge
        if node is None or output or node.name().rstrip("0123456789") not in STEPS:
            return None
        onward = [at for at, (before, _) in enumerate(node.next_functions) if before is not None]
        if len(onward) != 1:
            return None
        if node.name() != COPY:  # as ``Capture`` makes of every activation; its gradient is what came
            chain.append((node, onward[0]))
        edge = node.next_functions[onward[0]]
    return chain


@torch.no_grad()
def _along(chain: list[tuple[Any, int]], gradient: Tensor) -> Tensor:
    """Pull gradients (S, N, C) back through every step of a chain."""
    for node, onward in chain:
        weight = _linear_weight(node)
        if weight is None:
            parts = [_step(node, onward, each) for each in gradient]
            gradient = torch.stack(parts) if len(parts) > 1 else parts[0][None]
        else:
            gradient = _linear(gradient.flatten(0, 1), weight).view(*gradient.shape[:2], -1)
    return gradient


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


def _linear(gradient: Tensor, weight: Tensor) -> Tensor:
    """Return gradient (R, out) @ weight (out, in), and read no row of the weight that is multiplied by zero alone."""
    rows, width = gradient.shape
    values = gradient.reshape(-1)
    found = values.nonzero().view(-1)
    if len(found) > width:  # a matrix product reads each row once for all
        return gradient @ weight
    # A long sum is cut into parts, one for each thread.
    parts = max(1, torch.get_num_threads() // rows) if len(found) > LONG else 1
    starts = torch.searchsorted(found, torch.arange(rows * parts) * width // parts)
    sums: Tensor = torch.embedding_bag(weight, found % width, starts, False, SUM, False, values[found])[0]
    return sums if parts == 1 else sums.view(rows, parts, -1).sum(dim=1)


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
