"""A tail of linear layers gives its gradients without a backward pass; any other tail is refused, never mistaken."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from camserve.attribution.capture import Capture, Tail
from camserve.attribution.find_head import find_linear_head
from camserve.attribution.objectives import Objectives
from camserve.errors import ConfigError
from camserve.fast.closed_form import ClosedForm, Linear, find_closed_form
from camserve.fast.prepare import rewrite
from camserve.network.output import ScoringNetwork
from camserve.settings import RuntimeSpec
from camserve.values import Layer
from small_networks import CLASSES, SIDE, Small, distance, objectives_for, pictures, tokens, watch
from tails import POOL, Called, in_layout, tailed

nothing = nn.Identity


def hidden(*between: nn.Module, width: int = 12) -> Small:
    return tailed(*POOL, nn.Linear(6, width), *between, nn.Linear(width, CLASSES))


def reads(positions: int, *before: nn.Module) -> Small:
    """Two linear layers that read ``positions`` of each channel."""
    return tailed(*before, nn.Flatten(), nn.Linear(6 * positions, 12), nn.ReLU(), nn.Linear(12, CLASSES))


def vgg(positions: int, *before: nn.Module) -> Small:
    layers = (nn.Linear(6 * positions, 12), nn.ReLU(True), nn.Dropout(), nn.Linear(12, 10), nn.ReLU(True), nn.Dropout())
    return tailed(*before, nn.Flatten(), *layers, nn.Linear(10, CLASSES))


class InParts(nn.Module):
    """Passes two pictures at a time through its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, CLASSES))

    def forward(self, means: Tensor) -> Tensor:
        return torch.cat([self.head(part) for part in means.split(2)])


class Pair(nn.Module):
    """Two linear layers of one width, and what is done with them."""

    def __init__(self, run: Callable[[nn.Module, nn.Module, Tensor], Tensor], width: int = 6) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, width), nn.Linear(width, CLASSES)
        self.run = run

    def forward(self, means: Tensor) -> Tensor:
        return self.run(self.first, self.last, means)


def tied() -> Small:
    """One weight for two layers, each a module of its own."""
    small = tailed(*POOL, nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, CLASSES))
    small.network[5].weight = small.network[3].weight
    return small


def with_decoys() -> Small:
    """Layers and parameters of the right shapes that the scores do not come from."""
    small = hidden(nn.ReLU())
    small.network.register_parameter("decoy", nn.Parameter(torch.randn(CLASSES, 6)))
    decoys = copy.deepcopy(small.network[2:])
    small.network[2] = Called(lambda values: (decoys(values * 2), values.flatten(1))[1])
    small.network[2].decoys = decoys
    return small


FUNCTIONS: Mapping[str, Callable[[], Small]] = {
    "ReLU": lambda: hidden(nn.ReLU()),
    "ReLU in place, dropout": lambda: hidden(nn.ReLU(inplace=True), nn.Dropout()),
    "ReLU6": lambda: hidden(nn.ReLU6()),
    "Hardswish in place": lambda: hidden(nn.Hardswish(inplace=True), width=600),
    "SiLU": lambda: hidden(nn.SiLU(), width=6),
    "GELU": lambda: hidden(nn.GELU()),
    "tanh": lambda: hidden(nn.Tanh()),
}
FORMS: Mapping[str, Callable[[], Small]] = {
    **FUNCTIONS,
    "one linear layer": lambda: tailed(*POOL, nn.Linear(6, CLASSES)),
    "no bias": lambda: tailed(*POOL, nn.Linear(6, 12, bias=False), nn.ReLU(), nn.Linear(12, CLASSES, bias=False)),
    "1x1 convolutions": lambda: tailed(
        POOL[0], nn.Conv2d(6, 12, 1), nn.Hardswish(inplace=True), nn.Conv2d(12, CLASSES, 1), nn.Flatten()
    ),
    "three linear layers": lambda: hidden(nn.ReLU(), nn.Linear(12, 12), nn.GELU()),
    "one weight for two layers": tied,
    "decoys": with_decoys,
    "a batch in parts": lambda: tailed(*POOL, InParts()),
    "every position, one linear layer": lambda: tailed(nn.Flatten(), nn.Linear(96, CLASSES)),
    "every position, two linear layers": lambda: reads(16),
    "every position, three linear layers": lambda: vgg(16),
    "maximum pooling, one linear layer": lambda: tailed(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, CLASSES)),
    "maximum pooling, two linear layers": lambda: reads(4, nn.MaxPool2d(2), nothing()),
    "maximum pooling, three linear layers": lambda: vgg(4, nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Dropout()),
    "overlapping maximum pooling": lambda: reads(4, nn.MaxPool2d(3, stride=2, padding=1)),
    "maximum pooling over the border": lambda: reads(4, nn.MaxPool2d(3, stride=2, ceil_mode=True)),
    "average pooling": lambda: reads(4, nn.AvgPool2d(2)),
    "average pooling with a border that does not count": lambda: reads(
        4, nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
    ),
    "average pooling over the border": lambda: reads(4, nn.AvgPool2d(3, stride=2, ceil_mode=True)),
    "average pooling to a size, with overlaps": lambda: reads(9, nn.AdaptiveAvgPool2d(3)),
    "channels last": lambda: in_layout(
        "NHWC", Called(lambda values: values.mean(dim=(1, 2))), nn.Linear(6, 12), nn.SiLU(), nn.Linear(12, CLASSES)
    ),
    "channels last, turned for pooling": lambda: in_layout(
        "NHWC",
        Called(lambda values: values.permute(0, 3, 1, 2)),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 12), nn.SiLU(), nn.Linear(12, CLASSES)),
    ),
    "tokens": lambda: in_layout(
        "NLC", Called(lambda values: values.mean(dim=1)), nn.Linear(6, 12), nn.SiLU(), nn.Linear(12, CLASSES)
    ),
}


class TwoWeights(nn.Module):
    """One module that is two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.other = nn.Parameter(torch.zeros(12, 6)), nn.Parameter(torch.zeros(CLASSES, 12))

    def forward(self, means: Tensor) -> Tensor:
        return (means @ self.weight.T).relu() @ self.other.T


class Unowned(nn.Module):
    """A linear layer whose output no module gives."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(12, 6)), nn.Parameter(torch.zeros(12))

    def forward(self, means: Tensor) -> Tensor:
        return nn.functional.linear(means, self.weight, self.bias).relu()


def scaled_gelu() -> Small:
    """An approximation that is close to GELU where its inputs are large."""
    small = hidden(nn.GELU("tanh"), width=256)
    small.network[3].weight.data *= 30
    return small


NO_FORMS: Mapping[str, Callable[[], Small]] = {
    "another function": lambda: hidden(nn.LeakyReLU()),
    "almost ReLU": lambda: hidden(nn.LeakyReLU(3e-5)),
    "other bounds": lambda: hidden(nn.Hardtanh(0, 5)),
    "an approximation": lambda: hidden(nn.GELU("tanh")),
    "an approximation of large values": scaled_gelu,
    "two functions": lambda: hidden(nn.ReLU(), nn.Tanh()),
    "normalised": lambda: hidden(nn.LayerNorm(12), nn.ReLU()),
    "a hidden layer that nobody owns": lambda: tailed(*POOL, Unowned(), nn.Linear(12, CLASSES)),
    "two layers in one module": lambda: tailed(*POOL, TwoWeights()),
    "maximum of all positions": lambda: reads(1, nn.AdaptiveMaxPool2d(1)),
    "more layers than are followed": lambda: hidden(*[nn.ReLU(), nn.Linear(12, 12)] * 3, nn.ReLU()),
    "average pooling with a border that counts": lambda: reads(4, nn.AvgPool2d(3, stride=2, padding=1)),
    "average pooling with another divisor": lambda: reads(4, nn.AvgPool2d(2, divisor_override=3)),
    "two poolings": lambda: reads(1, nn.MaxPool2d(2), nn.AvgPool2d(2)),
    "ReLU before pooling": lambda: reads(4, nn.ReLU(), nn.MaxPool2d(2)),
    "a clamp from above that no picture reaches": lambda: reads(16, Called(lambda values: values.clamp(max=50))),
    "large activations are dropped": lambda: reads(16, Called(lambda values: values * (values < 50))),
    "positions that count differently": lambda: reads(
        1, Called(lambda values: values * torch.linspace(0.99, 1.01, 16).view(4, 4)), nn.AdaptiveAvgPool2d(1)
    ),
    "a skip connection around the hidden layer": lambda: tailed(
        *POOL, Pair(lambda first, last, means: last(first(means).relu() + means))
    ),
    "a skip connection for large values": lambda: tailed(
        *POOL, Pair(lambda first, last, means: last(first(means).relu() + (means - 20).relu()))
    ),
    "a second branch for large values": lambda: tailed(
        *POOL, Pair(lambda first, last, means: last(first(means).relu()) + (means.amax(1, keepdim=True) - 20).relu())
    ),
    "a second branch for peaks": lambda: reads(
        1,
        Called(
            lambda values: (
                values.mean((2, 3), keepdim=True)
                + (values.amax((2, 3), keepdim=True) - 15 * values.clamp(min=0).mean((2, 3), keepdim=True)).relu()
            )
        ),
    ),
    "a layer that runs twice": lambda: tailed(
        *POOL, Pair(lambda first, last, means: last(first(first(means).relu()).relu()))
    ),
    "a last layer that runs twice": lambda: tailed(
        *POOL, Pair(lambda first, last, means: last(last(first(means).tanh()).relu()), width=CLASSES)
    ),
    "channels last, every position": lambda: in_layout("NHWC", nn.Flatten(), nn.Linear(96, CLASSES)),
    "a class token": tokens,
}
# Right or refused: a form that is not found costs time, and nothing else.
MAYBE: Mapping[str, Callable[[], Small]] = {
    "pooling that gives places too": lambda: reads(
        4, nn.MaxPool2d(2, return_indices=True), Called(lambda pair: pair[0])
    ),
    "a hidden layer whose input is overwritten": lambda: tailed(
        *POOL, Pair(lambda first, last, means: last((first(means), means.zero_())[0].relu()))
    ),
    "a hidden layer whose output is overwritten": lambda: tailed(
        *POOL, Pair(lambda first, last, means: (last((kept := first(means)).relu()), kept.zero_())[0])
    ),
    "pictures one by one": lambda: tailed(
        *POOL, Pair(lambda first, last, means: torch.cat([last(first(part).relu()) for part in means.split(1)]))
    ),
    "a branch that adds nothing": lambda: tailed(
        *POOL, Pair(lambda first, last, means: last(first(means).relu() + 0 * means.sum(1, keepdim=True)))
    ),
}


def find(small: Small) -> ClosedForm | None:
    head = find_linear_head(small.network, small.layer, (SIDE, SIDE))
    return find_closed_form(small.network, small.layer, (SIDE, SIDE), head)


def found(small: Small) -> ClosedForm:
    form = find(small)
    assert form is not None
    return form


def strange_pictures() -> Tensor:
    """Faint, usual, strong and peaked pictures."""
    noise = pictures(5) * torch.tensor([1e-2, 1.0, 1.0, 1e3, 0.0])[:, None, None, None]
    noise[4, :, 5, 21] = 1e3
    return noise


OBJECTIVES: Mapping[str, Objectives] = {
    "one of each row": objectives_for(*((row, row) for row in range(5))),
    "several of a row": objectives_for((1, 0), (4, 2), (1, 3), (1, 3), (0, 4)),
    "two of each row": objectives_for(*((row, index) for row in range(5) for index in (1, 4))),
    "a contrast, a negative, a class against itself": Objectives(
        (1, 0, 3), (((1, 1.0), (3, -1.0)), ((2, -1.0),), ((4, 1.0), (4, -1.0))), CLASSES, torch.device("cpu")
    ),
    "all classes": Objectives.weighing((4, 2), torch.randn(2, CLASSES, generator=torch.Generator().manual_seed(3))),
}


def check(small: Small, form: ClosedForm) -> None:
    """Compare a form with plain autograd. AssertionError: it gives something else."""
    pixels = strange_pictures()
    plain = watch(small, pixels, tape=True)
    short = watch(small, pixels, Tail(backward=form))
    assert torch.allclose(short.scores, plain.scores, rtol=1e-6)
    for title, objectives in OBJECTIVES.items():
        expected = plain.gradients(objectives)
        means = short.mean_gradients(objectives)
        for number in range(len(expected)):  # each on its own, whatever the size of the others
            scale = 1e-5 * float(expected[number].abs().max())
            assert float((short.gradients(objectives) - expected)[number].abs().max()) <= scale, title
            assert float((means - expected.mean(dim=(2, 3)))[number].abs().max()) <= scale, title
        assert short.mean_gradients(objectives).shape == means.shape
    for edit in (torch.neg, torch.zeros_like, lambda activations: activations.flip(0, 2)):
        rescored, expected = short.rescore(edit(short.activations)), plain.rescore(edit(plain.activations))
        for one, other in zip(rescored, expected):
            assert distance(one, other) < 1e-5


def test_a_tail_of_linear_layers_has_a_closed_form(subtests: pytest.Subtests) -> None:
    for name, build in FORMS.items():
        with subtests.test(name):
            small = build()
            check(small, found(small))


def test_any_other_tail_is_refused(subtests: pytest.Subtests) -> None:
    for name, build in NO_FORMS.items():
        with subtests.test(name):
            assert find(build()) is None


def test_a_form_is_right_or_refused(subtests: pytest.Subtests) -> None:
    for name, build in MAYBE.items():
        with subtests.test(name):
            small = build()
            form = find(small)
            if form is not None:
                check(small, form)


def test_a_closed_form_needs_no_graph() -> None:
    small = FORMS["maximum pooling, three linear layers"]()
    form = found(small)
    graphs: list[bool] = []
    for module in small.network.modules():
        module.register_forward_hook(lambda _module, _inputs, output: graphs.append(output.requires_grad))
    output = watch(small, pictures(), Tail(backward=form))
    assert len(graphs) > 0
    assert not any(graphs)
    assert output.mean_gradients(objectives_for((0, 1))) is output.mean_gradients(objectives_for((0, 1)))


def test_a_form_is_found_in_float32_and_served_in_a_shorter_precision(subtests: pytest.Subtests) -> None:
    objectives = objectives_for((0, 0), (1, 1), (2, 2))
    for name in ("Hardswish in place", "maximum pooling, three linear layers", "every position, one linear layer"):
        small = FORMS[name]()
        network = ScoringNetwork(small.network).requires_grad_(False)
        form = found(Small(network, small.layer))
        for precision, tolerance in (("fp32", 1e-5), ("bf16", 0.03)):
            with subtests.test(name, precision=precision):
                served = Small(copy.deepcopy(network), small.layer)
                rewrite(served.network, (small.layer,), (SIDE, SIDE), RuntimeSpec(precision=precision))
                pixels = pictures().to(next(served.network.parameters()).dtype)
                expected = watch(served, pixels).gradients(objectives)
                output = watch(served, pixels, Tail(backward=form))
                for gradients, plain in (
                    (output.mean_gradients(objectives), expected.mean(dim=(2, 3))),
                    (output.gradients(objectives), expected),
                ):
                    assert gradients.dtype == torch.float32
                    assert distance(gradients, plain) <= tolerance


def test_a_layer_with_a_closed_form_and_one_without_share_a_pass() -> None:
    small, objectives = FUNCTIONS["ReLU in place, dropout"](), objectives_for((0, 2))
    layers = (Layer("0.0"), small.layer)
    with Capture(small.network, layers, {small.layer.name: Tail(backward=found(small))}) as capture:
        both = capture.forward(pictures(1), tape=True)
    for output, layer in zip(both, layers):
        alone = watch(Small(small.network, layer), pictures(1), tape=True)
        assert distance(output.gradients(objectives), alone.gradients(objectives)) < 1e-6
        assert distance(output.rescore(-output.activations), alone.rescore(-output.activations)) < 1e-6


def test_a_pooling_that_is_a_layer_too_is_read_as_ever() -> None:
    small, objectives = FORMS["maximum pooling, two linear layers"](), objectives_for((0, 2))
    tails = {"0": Tail(backward=found(small)), "1": Tail(backward=found(Small(small.network, Layer("1"))))}
    with Capture(small.network, (Layer("0"), Layer("1")), tails) as capture:
        both = capture.forward(pictures(1))
        for output in both:
            alone = watch(Small(small.network, output.layer), pictures(1))
            assert distance(output.gradients(objectives), alone.gradients(objectives)) < 1e-6


def test_a_hidden_layer_that_the_network_lacks_is_named() -> None:
    form = ClosedForm([Linear("nowhere", torch.ones(2, 6), torch.ones(2), "relu")], 6, pooled=True)
    elsewhere = ClosedForm(
        [*form._hidden, form._last, Linear("", torch.ones(CLASSES, 2), torch.ones(CLASSES))], 6, True
    )
    with pytest.raises(ConfigError, match="no module named 'nowhere'"):
        watch(FUNCTIONS["ReLU"](), pictures(1), Tail(backward=elsewhere))


class Twice(nn.Module):
    """A hidden layer that runs twice once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.twice = False

    def forward(self, means: Tensor) -> Tensor:
        once = self.first(means).relu()
        return self.last(self.first(once) if self.twice else once)


def test_a_hidden_layer_that_starts_to_run_twice_is_an_error() -> None:
    small = tailed(*POOL, Twice())
    tail = Tail(backward=found(small))
    watch(small, pictures(1), tail)
    small.network[3].twice = True
    with pytest.raises(ConfigError, match=r"module '3.first' gave 2 rows for 1 pictures"):
        watch(small, pictures(1), tail)
