"""A tail of linear layers gives its gradients without a backward pass; any other tail is refused, never mistaken."""

from __future__ import annotations

import copy
from collections.abc import Mapping

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
from linear_tails import FORMS, FUNCTIONS, MAYBE, NO_FORMS
from small_networks import CLASSES, SHAPE, Small, distance, objectives_for, pictures, watch
from tails import POOL, tailed


def find(small: Small) -> ClosedForm | None:
    head = find_linear_head(small.network, small.layer, SHAPE)
    return find_closed_form(small.network, small.layer, SHAPE, head)


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
                rewrite(served.network, (small.layer,), SHAPE, RuntimeSpec(precision=precision))
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
