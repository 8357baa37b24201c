"""Contrastive excitation backpropagation."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from camserve.attribution.capture import Capture
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.objectives import Objectives
from camserve.errors import ConfigError

TOGETHER = 8  # objectives in one pass
ACTIVATIONS = {"relu": functional.relu, "relu_": functional.relu, "relu6": functional.relu6}
POOLS = {"avg_pool2d", "adaptive_avg_pool2d", "mean"}
SUMS = {"add", "add_", "__add__", "__iadd__", "__radd__"}
# Their gradient already carries probability from each output to the inputs that made it.
CARRIERS = {"max_pool2d", "adaptive_max_pool2d", "dropout", "flatten", "view", "reshape", "permute", "transpose"}
CARRIERS |= {"pad", "squeeze", "unsqueeze", "contiguous", "clone", "cat", "chunk", "split", "__getitem__", "float"}


def cmwp(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Trace back where the class's winning units drew their activation, less the same for its opposite.

    Zhang et al. 2016, arXiv:1608.00507 (c-MWP): probability flows backwards through positive
    weights, in proportion to activation; the last weighted layer is traced with its weights' signs
    changed as well, and that flow is taken off. For networks of convolutions, linear layers,
    pooling, ReLU, batch normalisation after a convolution, sums and concatenation: ConfigError
    names anything else.
    """
    starts = range(0, len(objectives.rows), TOGETHER)
    return torch.cat([_trace(output, objectives, slice(start, start + TOGETHER)) for start in starts])


def _trace(output: LayerOutput, objectives: Objectives, part: slice) -> Tensor:
    rows = objectives.row_index[part]
    with Capture(output.network, (output.layer,)) as capture:
        with _Winners() as winners:
            (again,) = capture.forward(output.pixels[rows])
        # The rules put new tensors in the place of edited ones, which shows where an edit is made for its effect.
        expected = output.scores[rows]
        if not torch.allclose(again.scores, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
            raise ConfigError("method 'cmwp' cannot follow this network's in-place operators")
        if not winners.weighted:
            raise ConfigError(f"method 'cmwp' needs a weighted layer after '{output.layer.name}'")
        winners.weighted[-1].contrastive = True
        # Every operator of the tail now hands back probability instead of its gradient.
        return again.gradients(objectives.alone(part)).sum(dim=1)


@dataclass
class _Rule:
    """How probability flows back through one operator."""

    output: Callable[..., Tensor]  # of the inputs: what the operator gives
    positive: Callable[..., Tensor]  # of the inputs' positive parts: what the positive weights make of them
    negative: Callable[..., Tensor] | None = None  # the same of the negative weights' sizes
    contrastive: bool = False


class _Excite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rule: _Rule, *inputs: Tensor) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward(*inputs)
        return rule.output(*inputs)

    @staticmethod
    def backward(ctx: Any, share: Tensor) -> Any:
        flows = _flow(ctx.rule.positive, ctx.saved_tensors, share)
        if ctx.rule.contrastive:
            against = _flow(ctx.rule.negative, ctx.saved_tensors, share)
            flows = [one - other for one, other in zip(flows, against)]
        return (None, *flows)


def _flow(positive: Callable[..., Tensor], inputs: tuple[Tensor, ...], share: Tensor) -> list[Tensor]:
    """Divide each output's share among its inputs, in proportion to what each gave it."""
    with torch.enable_grad():
        given = [value.detach().clamp(min=0).requires_grad_() for value in inputs]
        made = positive(*given)
    ratio = torch.where(made > 0, share / made, 0.0)
    return [value.detach() * part for value, part in zip(given, torch.autograd.grad(made, given, ratio))]


class _Winners(TorchFunctionMode):
    """Run a network with the rules above in place of its operators' gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.weighted: list[_Rule] = []
        self._convolutions: dict[int, tuple[Tensor, tuple[Any, ...]]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", str(func)), dict(kwargs or {})
        if not any(value.requires_grad for value in args if isinstance(value, Tensor)):
            return func(*args, **kwargs)
        if name in ACTIVATIONS or name == "hardtanh":
            return _Excite.apply(_activation(name, args, kwargs), args[0])
        if name in ("conv2d", "linear"):
            return self._weighted(func, args, kwargs)
        if name == "batch_norm":
            return self._normalised(func, args, kwargs)
        if name in POOLS:
            pool = _rest(func, args[1:], kwargs)
            return _Excite.apply(_Rule(pool, pool), args[0])
        if name in SUMS and len(args) == 2 and isinstance(args[1], Tensor) and not kwargs:
            return _Excite.apply(_Rule(torch.add, torch.add), *args)
        output = func(*args, **kwargs)
        if name not in CARRIERS and isinstance(output, Tensor) and output.requires_grad:
            raise ConfigError(f"method 'cmwp' has no rule for the operator '{name}' of this network")
        return output

    def _weighted(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        pixels, weight = args[:2]
        biased = _rest(func, args[1:], kwargs)
        output: Tensor = _Excite.apply(self._rule(func, weight, args[3:], kwargs, biased), pixels)
        self._convolutions[id(output)] = (output, (func, *args))
        return output

    def _rule(self, func: Any, weight: Tensor, rest: Any, kwargs: dict[str, Any], output: Any) -> _Rule:
        unbiased = {key: value for key, value in kwargs.items() if key != "bias"}
        more, less = weight.clamp(min=0), (-weight).clamp(min=0)
        rule = _Rule(
            output,
            lambda given: func(given, more, None, *rest, **unbiased),
            lambda given: func(given, less, None, *rest, **unbiased),
        )
        self.weighted.append(rule)
        return rule

    def _normalised(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Treat a convolution and the batch normalisation after it as one weighted layer."""
        if id(args[0]) not in self._convolutions:
            raise ConfigError("method 'cmwp' has no rule for batch normalisation that does not follow a convolution")
        before, (convolve, pixels, weight, *rest) = self._convolutions[id(args[0])]
        given = inspect.signature(functional.batch_norm).bind(*args, **kwargs).arguments
        gain = given.get("weight")
        scale = (1.0 if gain is None else gain) * torch.rsqrt(given["running_var"] + given["eps"])
        normalised = func(before.detach(), *args[1:], **kwargs)
        rule = self._rule(convolve, weight * scale[:, None, None, None], rest[1:], {}, lambda _: normalised)
        output: Tensor = _Excite.apply(rule, pixels)
        return output


def _activation(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Rule:
    if name == "hardtanh":
        return _Rule(_rest(functional.hardtanh, args[1:3], {k: v for k, v in kwargs.items() if k != "inplace"}), _same)
    return _Rule(ACTIVATIONS[name], _same)


def _same(given: Tensor) -> Tensor:
    return given.clone()


def _rest(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    return lambda given: func(given, *args, **kwargs)
