"""Gradients at a layer are those that plain automatic differentiation of the whole network gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from camserve.attribution.backward import ROWS_AT_ONCE
from camserve.attribution.capture import Capture
from camserve.attribution.grid import on_grid
from camserve.attribution.objectives import Objectives
from camserve.errors import ConfigError, OutOfTime
from camserve.values import Layer
from small_networks import (
    CLASSES,
    NETWORKS,
    Small,
    deep,
    distance,
    objectives_for,
    pictures,
    settle,
    tokens,
    watch,
)
from tails import POOL, Called


class Columns(nn.Module):
    """A product whose other factor is the one that depends on the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(CLASSES, 6))

    def forward(self, values: Tensor) -> Tensor:
        return (self.weight @ values.mean(dim=(2, 3)).t()).t()


class Scaled(torch.autograd.Function):
    """An operator that a network defines in Python."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values * 3

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 3


class OneAtATime(torch.autograd.Function):
    """An operator whose backward pass decides by its gradient, and so takes no batch of them."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2 if gradient.any() else gradient


def gathered(values: Tensor) -> Tensor:
    buffer = torch.zeros_like(values)
    buffer[:, 1:] = values[:, :-1]
    buffer[:, 0] = values[:, -1] ** 2
    return buffer.view(len(values), 6, -1).mean(dim=2)


def edited(values: Tensor) -> Tensor:
    values[:, ::2].mul_(3)
    values[:, 1] = 1.0
    return values.mean(dim=(2, 3))


def layer_shared_twice() -> nn.Module:
    hidden = nn.Linear(6, 6)
    return nn.Sequential(*POOL, hidden, nn.Tanh(), hidden, nn.Tanh(), nn.Linear(6, CLASSES))


def after(function: Callable[[Tensor], Tensor], width: int = 6) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(Called(function), nn.Flatten(), nn.Linear(width, CLASSES))


TAILS: Mapping[str, Callable[[], nn.Module]] = {
    "a linear layer without a bias": lambda: nn.Sequential(*POOL, nn.Linear(6, CLASSES, bias=False)),
    "three linear layers": lambda: nn.Sequential(
        *POOL, nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 40), nn.Hardswish(), nn.Linear(40, CLASSES)
    ),
    "every position": after(lambda values: values, 96),
    "maximum pooling with overlaps": after(lambda values: nn.functional.max_pool2d(values, 3, 2, 1), 24),
    "average pooling with borders": after(lambda values: nn.functional.avg_pool2d(values, 3, 2, 1), 24),
    "average over one side": after(lambda values: values.mean(dim=3), 24),
    "average over channels": after(lambda values: values.mean(dim=(1, 2)), 4),
    "normalised": lambda: nn.Sequential(
        nn.MaxPool2d(2), nn.BatchNorm2d(6), *POOL, nn.LayerNorm(6), nn.Linear(6, CLASSES)
    ),
    "a convolution at the end": lambda: nn.Sequential(nn.Conv2d(6, CLASSES, 3), nn.ReLU(), *POOL),
    "channels last": after(lambda values: values.permute(0, 2, 3, 1), 96),
    "another view": after(lambda values: values.reshape(-1, 4, 24).relu(), 96),
    "one position of each": after(lambda values: values.contiguous().as_strided((len(values), 6), (96, 16), 0)),
    "one of two halves": after(lambda values: values.chunk(2, dim=1)[1], 48),
    "repeated over the positions": after(
        lambda values: values.mean(dim=(2, 3), keepdim=True) * torch.linspace(1, 2, 16).view(4, 4) ** 2, 96
    ),
    "read twice": after(lambda values: values.mean(dim=(2, 3)) + values.amax(dim=(2, 3))),
    "a layer that is shared": layer_shared_twice,
    "columns": Columns,
    "gathered in a buffer": after(gathered),
    "edited in place": after(edited),
    "an operator in Python": after(lambda values: Scaled.apply(values.mean(dim=(2, 3)))),
    "one gradient at a time": after(lambda values: OneAtATime.apply(values.square()).mean(dim=(2, 3))),
}


def with_tail(tail: nn.Module) -> Small:
    return Small(settle(nn.Sequential(nn.Conv2d(3, 6, 8, stride=8), tail)), Layer("0"))


EVERY: Mapping[str, Callable[[], Small]] = {
    **NETWORKS,
    **{name: (lambda build=build: with_tail(build())) for name, build in TAILS.items()},
}
OBJECTIVES: Mapping[str, Objectives] = {
    "one of each row": objectives_for((0, 1), (1, 4), (2, 1)),
    "two of each row": objectives_for((0, 1), (0, 2), (1, 3), (1, 4), (2, 0), (2, 1)),
    "some rows, in any order": objectives_for((2, 0), (0, 1), (2, 3)),
    "more than pass at once": objectives_for(*((2, index % CLASSES) for index in range(ROWS_AT_ONCE // 3 + 2))),
    "a contrast, a negative, a class against itself": Objectives(
        (1, 0, 1), (((1, 1.0), (3, -1.0)), ((2, -1.0),), ((4, 1.0), (4, -1.0))), CLASSES, torch.device("cpu")
    ),
    "all classes": Objectives.weighing((0, 2), torch.randn(2, CLASSES, generator=torch.Generator().manual_seed(3))),
    "nothing": objectives_for((0, 1), sign=0.0),
}


def plain_gradients(small: Small, pixels: Tensor, objectives: Objectives) -> Tensor:
    """d objective / d activation, (T, K, h, w), of the whole network, one objective after the other."""
    outputs: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> Tensor:
        outputs.append(output)
        return output.clone()  # the next module may work in place

    with small.network.get_submodule(small.layer.name).register_forward_hook(keep):
        scores = small.network(pixels)
    found = []
    for row, terms in zip(objectives.rows, objectives.terms):
        value = sum(weight * scores[row, index] for index, weight in terms)
        (gradient,) = torch.autograd.grad(value, outputs[0], retain_graph=True)
        found.append(on_grid(gradient, small.layer)[row])
    return torch.stack(found)


def test_gradients_are_those_of_the_whole_network(subtests: pytest.Subtests) -> None:
    for name, build in EVERY.items():
        small = build()
        output = watch(small, pictures())
        for title, objectives in OBJECTIVES.items():
            with subtests.test(f"{name}: {title}"):
                expected = plain_gradients(small, pictures(), objectives)
                means = output.mean_gradients(objectives)  # first, so that they are no means of known gradients
                assert distance(output.gradients(objectives), expected) < 1e-5
                largest = float(expected.abs().max())
                assert float((means - expected.mean(dim=(2, 3))).abs().max()) <= 1e-5 * largest


def test_methods_share_one_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: passes.append(1) or grad(*args, **kwargs))
    output = watch(tokens(), pictures(1))
    objectives = objectives_for((0, 2))
    assert torch.equal(output.gradients(objectives).mean(dim=(2, 3)), output.mean_gradients(objectives))
    output.mean_gradients(objectives)
    output.within(time.monotonic() + 60).gradients(objectives_for((0, 2)))  # an equal one, at another time
    assert len(passes) == 1
    output.gradients(objectives_for((0, 3)))
    assert len(passes) == 2


def test_no_pass_is_begun_after_its_time() -> None:
    output = watch(deep(), pictures(1), tape=True)
    late = output.within(time.monotonic() - 1)
    for work in (
        late.check_time,
        lambda: late.gradients(objectives_for((0, 1))),
        lambda: late.mean_gradients(objectives_for((0, 1))),
        lambda: late.rescore(late.activations),
    ):
        with pytest.raises(OutOfTime, match="the time for the explanations at 'features' is over"):
            work()
    assert output.gradients(objectives_for((0, 1))).any()


def test_a_layer_that_the_scores_ignore_is_named() -> None:
    ignored = with_tail(Called(lambda values: torch.ones(len(values), CLASSES)))
    detached = with_tail(Called(lambda values: values.detach().mean(dim=(2, 3)) * torch.ones(6, requires_grad=True)))
    for small in (ignored, detached):
        output = watch(small, pictures(1))
        with pytest.raises(ConfigError, match="scores do not depend on the output of '0'"):
            output.gradients(Objectives.weighing([0], torch.eye(output.scores.shape[1])[[0]]))


def test_pictures_whose_last_block_is_kept_pass_in_smaller_groups() -> None:
    for small, expected in ((tokens(), 16), (deep(), 32)):
        assert Capture(small.network, (small.layer,)).pictures_at_once == expected
