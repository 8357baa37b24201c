"""Laws that hold for every method."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from by_hand import observe
from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.methods import METHODS
from camserve.attribution.normalise import normalise_maps
from camserve.attribution.objectives import Objectives
from small_networks import (
    CLASSES,
    SIDE,
    Small,
    deep,
    distance,
    every_device,
    objectives_for,
    pictures,
    pooled,
    tokens,
)

# Methods whose map of a negated functional is the negated map.
ODD = {"gradcam", "hirescam", "xgradcam", "eigengradcam", "cam", "ablationcam", "reciprocam", "vit_reciprocam"}
ODD |= {"gradient", "input_x_gradient", "smoothgrad", "integrated_gradients", "cmwp"}
BY_PIXEL = {"gradient", "input_x_gradient", "smoothgrad", "integrated_gradients"}
BY_PIXEL |= {"guided_backprop", "deconvnet", "guided_gradcam"}
# A method of two halves: what the negated functional gives in one, the other gives negated.
HALVES = {"gradcam+": "gradcam-", "gradcam-": "gradcam+"}
UNEVEN = {"layercam", "gradcam++", "scorecam", "guided_backprop", "deconvnet", "guided_gradcam", "attention", *HALVES}
CLASS_AGNOSTIC = {"eigencam"}
HOMES = {
    "cam": pooled,
    "vit_reciprocam": tokens,
    "attention": tokens,
}  # the network that a method is tried on; else ``deep``

PAIRS = ((2, 0), (0, 1), (2, 3), (1, 1), (0, 4))


@pytest.fixture(scope="module", autouse=True)
def few_passes() -> Iterator[None]:
    """Fewer steps and samples are sums of the same kind."""
    with pytest.MonkeyPatch.context() as patch:
        for passes in ("STEPS", "SAMPLES"):
            patch.setattr(import_module("camserve.attribution.methods.gradient"), passes, 5)
        yield


def home(name: str) -> Small:
    return HOMES.get(name, deep)()


@cache
def three_pictures(kind: object) -> LayerOutput:
    return observe(kind(), pictures())


def output_of(name: str) -> LayerOutput:
    return three_pictures(HOMES.get(name, deep))


@cache
def maps(name: str, objectives: Objectives) -> Tensor:
    """The maps of three pictures on the method's own network."""
    return METHODS[name].run(output_of(name), objectives)


def rounding(name: str) -> float:
    """What rounding may do to a map: a method that subtracts two scores loses digits."""
    return 1e-4 if METHODS[name].tape else 1e-5


def test_every_method_is_sorted_into_one_kind_of_symmetry() -> None:
    assert sorted([*ODD, *UNEVEN, *CLASS_AGNOSTIC]) == sorted(METHODS)


def test_a_map_is_signed_float32_of_one_size_for_each_objective(subtests: pytest.Subtests) -> None:
    for name in METHODS:
        with subtests.test(name):
            found = maps(name, objectives_for(*PAIRS))
            size = (SIDE, SIDE) if name in BY_PIXEL else tuple(output_of(name).activations.shape[2:])
            assert found.shape == (len(PAIRS), *size)
            assert found.dtype == torch.float32
            assert not found.requires_grad
            assert found.isfinite().all()
            assert found.any()


def test_a_batch_is_explained_as_its_pictures_alone(subtests: pytest.Subtests) -> None:
    for name in METHODS:
        with subtests.test(name):
            together = maps(name, objectives_for(*PAIRS))
            for row in range(3):
                numbers = [number for number, (of_row, _) in enumerate(PAIRS) if of_row == row]
                alone = observe(home(name), pictures()[row : row + 1])
                found = METHODS[name].run(alone, objectives_for(*((0, PAIRS[number][1]) for number in numbers)))
                assert distance(found, together[numbers]) < rounding(name)


def test_the_order_of_objectives_is_the_order_of_maps(subtests: pytest.Subtests) -> None:
    for name in METHODS:
        with subtests.test(name):
            found = maps(name, objectives_for(*PAIRS))
            assert distance(maps(name, objectives_for(*reversed(PAIRS))), found.flip(0)) < 1e-5
            assert distance(maps(name, objectives_for(PAIRS[2])), found[2:3]) < 1e-5


def test_what_speaks_against_is_what_the_negated_functional_says(subtests: pytest.Subtests) -> None:
    for name in METHODS:
        with subtests.test(name):
            against = maps(name, objectives_for(*PAIRS, sign=-1.0))
            if name in CLASS_AGNOSTIC:
                assert distance(against, maps(name, objectives_for(*PAIRS))) < 1e-5
            elif name in UNEVEN and name not in HALVES:
                assert (against != maps(name, objectives_for(*PAIRS))).any()
            else:
                assert distance(against, -maps(HALVES.get(name, name), objectives_for(*PAIRS))) < 1e-5


def test_a_contrast_is_the_difference_of_two_maps(subtests: pytest.Subtests) -> None:
    contrast = Objectives((0,), (((1, 1.0), (4, -1.0)),), CLASSES, torch.device("cpu"))
    for name in sorted(ODD - {"eigengradcam"}):
        with subtests.test(name):
            both = maps(name, objectives_for((0, 1), (0, 4)))
            assert distance(maps(name, contrast), both[:1] - both[1:]) < 1e-5


def test_a_picture_without_contrast_has_a_finite_map(subtests: pytest.Subtests) -> None:
    for name in METHODS:
        with subtests.test(name):
            output = observe(home(name), torch.zeros(1, 3, SIDE, SIDE))
            assert METHODS[name].run(output, objectives_for((0, 2))).isfinite().all()


def silent(name: str) -> Small:
    """The method's own network with a layer that gives nothing."""
    small = home(name)
    # A token is never silent: there it is the classifier that hears nothing.
    quiet = "heads.head.weight" if HOMES.get(name) is tokens else small.layer.name
    with torch.no_grad():
        for key, value in small.network.named_parameters():
            if key.startswith(quiet):
                value.zero_()
    return small


def test_a_layer_that_gives_nothing_gives_a_blank_map(subtests: pytest.Subtests) -> None:
    for name in METHODS:
        if name in BY_PIXEL - {"guided_gradcam"}:
            continue
        output = observe(silent(name), pictures(1))
        for evidence, sign in (("for", 1.0), ("against", -1.0), ("signed", 1.0)):
            with subtests.test(f"{name}, {evidence}"):
                found = METHODS[name].run(output, objectives_for((0, 2), sign=sign))
                (normalised,) = normalise_maps(found.numpy(), [evidence])
                assert normalised.blank
                assert normalised.positive == normalised.negative == 0.0


def condition(network: nn.Module) -> list[object]:
    """Everything about a network that borrowing it could change; as deployed or as trained, it is the same."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        [[len(getattr(module, kind)) for kind in hooks] for module in network.modules()],
        [module.training for module in network.modules()],
        [(parameter.requires_grad, parameter.grad) for parameter in network.parameters()],
        [value.tolist() for value in network.state_dict().values()],
        (torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()),
    ]


def test_the_network_comes_back_as_it_went_in(subtests: pytest.Subtests) -> None:
    for name in METHODS:
        with subtests.test(name):
            small = home(name)
            before = condition(small.network)
            output = observe(small, pictures(1))
            METHODS[name].run(output, objectives_for((0, 1)))
            assert condition(small.network) == before
            # As many weights as no classifier has scores, and pixels of no picture: whatever is done with them fails.
            output.pixels = torch.zeros(1, 5, 1, 1)
            wrong = Objectives.weighing([0], torch.zeros(1, CLASSES + 2))
            if name not in CLASS_AGNOSTIC:
                with pytest.raises(RuntimeError):
                    METHODS[name].run(output, wrong)
            assert condition(small.network) == before


@every_device
def test_the_map_stays_on_the_device_of_the_activation(device: str, subtests: pytest.Subtests) -> None:
    for name in METHODS:
        with subtests.test(name):
            small, objectives = home(name), objectives_for(*PAIRS)
            small.network.to(device)
            moved = Objectives.weighing(objectives.rows, objectives.weights.to(device))
            found = METHODS[name].run(observe(small, pictures().to(device)), moved)
            assert found.device.type == device
            assert distance(found.cpu(), maps(name, objectives)) < 1e-4
