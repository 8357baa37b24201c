"""Laws that hold for every method, and maps worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camserve.answer.compat import pytorch_grad_cam_view
from camserve.attribution.capture import Capture, LayerOutput
from camserve.attribution.evidence import channels, share_of_score, signs
from camserve.attribution.fuse import fuse
from camserve.attribution.linear_head import find_head
from camserve.attribution.methods import METHODS
from camserve.attribution.methods.eigencam import orientation
from camserve.attribution.methods.gradient import NOISE, SAMPLES, smoothing_noise
from camserve.attribution.normalise import Map, measure
from camserve.attribution.objectives import Objectives
from camserve.errors import ConfigError
from camserve.values import Layer
from small_networks import CLASSES, SIDE, Small, deep, pictures, pooled, settle, smooth, tokens

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
# Methods whose map of a negated functional is the negated map.
ODD = {"gradcam", "hirescam", "xgradcam", "eigengradcam", "cam", "ablationcam", "reciprocam", "vit_reciprocam"}
ODD |= {"gradient", "input_x_gradient", "smoothgrad", "integrated_gradients", "cmwp"}
BY_PIXEL = {"gradient", "input_x_gradient", "smoothgrad", "integrated_gradients"}
BY_PIXEL |= {"guided_backprop", "deconvnet", "guided_gradcam"}
# A method of two halves: what the negated functional gives in one, the other gives negated.
HALVES = {"gradcam+": "gradcam-", "gradcam-": "gradcam+"}
UNEVEN = {"layercam", "gradcam++", "scorecam", "guided_backprop", "deconvnet", "guided_gradcam", *HALVES}
CLASS_AGNOSTIC = {"eigencam"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


every_method = pytest.mark.parametrize("name", METHODS)


def home(name: str) -> Small:
    """The network that a method is tried on."""
    return {"cam": pooled, "vit_reciprocam": tokens}.get(name, deep)()


def look(small: Small, pixels: Tensor) -> LayerOutput:
    head = find_head(small.network, small.layer, (SIDE, SIDE))
    heads = {} if head is None else {small.layer.name: head}
    with Capture(small.network, (small.layer,), heads) as capture:
        (seen,) = capture.forward(pixels, tape=True)
    return seen


def maps(name: str, small: Small, pixels: Tensor, targets: Objectives) -> Tensor:
    return METHODS[name].run(look(small, pixels), targets)


def ask(*pairs: tuple[int, int], sign: float = 1.0) -> Objectives:
    """One target for each (row, class)."""
    rows, classes = zip(*pairs)
    return Objectives.weighing(rows, sign * torch.eye(CLASSES)[list(classes)])


def measured(signed: np.ndarray, evidence: str) -> Map:
    (found,) = measure(signed[None], [evidence])
    return found


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> None:
    assert one.shape == other.shape
    assert float((one - other).abs().max()) <= tolerance * float(other.abs().max())


def rounding(name: str) -> float:
    """What rounding may do to a map: a method that subtracts two scores loses digits."""
    return 1e-4 if METHODS[name].tape else 1e-5


def test_every_method_is_sorted_into_one_kind_of_symmetry() -> None:
    assert sorted([*ODD, *UNEVEN, *CLASS_AGNOSTIC]) == sorted(METHODS)


@every_method
def test_a_map_is_signed_float32_of_one_size_for_each_target(name: str) -> None:
    small = home(name)
    seen = look(small, pictures())
    found = METHODS[name].run(seen, ask((0, 1), (2, 3), (2, 0)))
    size = (SIDE, SIDE) if name in BY_PIXEL else tuple(seen.activations.shape[2:])
    assert found.shape == (3, *size)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert found.isfinite().all()
    assert (found != 0).any()


@every_method
def test_a_batch_is_explained_as_its_images_alone(name: str) -> None:
    small, pixels = home(name), pictures()
    together = maps(name, small, pixels, ask((0, 1), (1, 1), (2, 4)))
    for row, wanted in enumerate((1, 1, 4)):
        alone = maps(name, small, pixels[row : row + 1], ask((0, wanted)))
        assert_same(together[row : row + 1], alone, rounding(name))


@every_method
def test_the_order_of_targets_is_the_order_of_maps(name: str) -> None:
    small, pixels = home(name), pictures()
    pairs = [(2, 0), (0, 1), (2, 3), (1, 1), (0, 4)]
    found = maps(name, small, pixels, ask(*pairs))
    assert_same(maps(name, small, pixels, ask(*reversed(pairs))), found.flip(0))
    assert_same(maps(name, small, pixels, ask((2, 3))), found[2:3])


@every_method
def test_what_speaks_against_is_what_the_negated_functional_says(name: str) -> None:
    small, pixels = home(name), pictures(2)
    against = maps(name, small, pixels, ask((0, 1), (1, 2), sign=-1.0))
    if name in CLASS_AGNOSTIC:
        assert_same(against, maps(name, small, pixels, ask((0, 1), (1, 2))))
    elif name in ODD:
        assert_same(against, -maps(name, small, pixels, ask((0, 1), (1, 2))))
    elif name in HALVES:
        assert_same(against, -maps(HALVES[name], small, pixels, ask((0, 1), (1, 2))))
    else:
        assert (against != maps(name, small, pixels, ask((0, 1), (1, 2)))).any()


@pytest.mark.parametrize("name", sorted(ODD - {"eigengradcam"}))
def test_a_contrast_is_the_difference_of_two_maps(name: str) -> None:
    small, pixels = home(name), pictures(1)
    contrast = Objectives.weighing([0], torch.eye(CLASSES)[[1]] - torch.eye(CLASSES)[[3]])
    both = maps(name, small, pixels, ask((0, 1), (0, 3)))
    assert_same(maps(name, small, pixels, contrast), both[:1] - both[1:])


@every_method
def test_a_picture_without_contrast_has_a_finite_map(name: str) -> None:
    found = maps(name, home(name), torch.zeros(1, 3, SIDE, SIDE), ask((0, 2)))
    assert found.isfinite().all()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in BY_PIXEL - {"guided_gradcam"}])
def test_a_layer_that_shows_nothing_gives_a_blank_map(name: str) -> None:
    small = home(name)
    with torch.no_grad():
        # A token is never silent: there it is the classifier that hears nothing.
        silent = "heads.head.weight" if name == "vit_reciprocam" else small.layer.name
        for key, value in small.network.named_parameters():
            if key.startswith(silent):
                value.zero_()
    for evidence in ("for", "against", "signed"):
        found = maps(name, small, pictures(1), ask((0, 2), sign=-1.0 if evidence == "against" else 1.0))
        told = measured(found[0].numpy(), evidence)
        assert told.blank
        assert told.positive == told.negative == 0.0


@every_method
def test_the_network_comes_back_as_it_went_in(name: str) -> None:
    small = home(name)
    before = condition(small.network)
    maps(name, small, pictures(1), ask((0, 1)))
    assert condition(small.network) == before


@every_method
def test_the_network_comes_back_when_the_method_fails(name: str) -> None:
    small = home(name)
    before = condition(small.network)
    seen = look(small, pictures(1))
    # As many weights as no classifier has scores, and pixels of no picture: whatever is asked of them fails.
    seen.pixels = torch.zeros(1, 5, 1, 1)
    wrong = Objectives.weighing([0], torch.zeros(1, CLASSES + 2))
    if name not in CLASS_AGNOSTIC:
        with pytest.raises(RuntimeError):
            METHODS[name].run(seen, wrong)
    assert condition(small.network) == before


def condition(network: nn.Module) -> list[object]:
    """Everything about a network that borrowing it could change; as deployed or as trained, it is the same."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        [[len(getattr(module, each)) for each in hooks] for module in network.modules()],
        [module.training for module in network.modules()],
        [(each.requires_grad, each.grad) for each in network.parameters()],
        [value.tolist() for value in network.state_dict().values()],
        (torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()),
    ]


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("cam", "vit_reciprocam", "cmwp")])
def test_the_closed_form_draws_the_maps_of_the_backward_pass(name: str) -> None:
    small, pixels = pooled(), pictures(2)
    with Capture(small.network, (small.layer,)) as capture:
        (seen,) = capture.forward(pixels, tape=True)
    assert_same(
        METHODS[name].run(look(small, pixels), ask((0, 1), (1, 2))), METHODS[name].run(seen, ask((0, 1), (1, 2))), 2e-6
    )


@pytest.mark.parametrize("device", DEVICES)
@every_method
def test_the_map_stays_on_the_device_of_the_activation(name: str, device: str) -> None:
    small = home(name)
    small.network.to(device)
    targets = ask((0, 1), (1, 2))
    moved = Objectives.weighing(targets.numbers, targets.weights.to(device))
    found = maps(name, small, pictures(2).to(device), moved)
    assert found.device.type == device
    small.network.cpu()
    assert_same(found.cpu(), maps(name, small, pictures(2), targets), 1e-4)


# By hand


def linear(weights: list[list[float]], activation: list[list[list[float]]], bias: float = 0.0) -> LayerOutput:
    """Pooling and a linear layer with these weights, seeing this activation (K, h, w) as its input."""
    shown = torch.tensor([activation])
    network = nn.Sequential(
        nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shown.shape[1], len(weights))
    )
    with torch.no_grad():
        network[3].weight.copy_(torch.tensor(weights))
        network[3].bias.fill_(bias)
    with Capture(network, (Layer("0"),)) as capture:
        (seen,) = capture.forward(shown, tape=True)
    return seen


ACTIVATION = [[[1.0, 2.0], [3.0, 4.0]], [[0.0, 8.0], [0.0, 0.0]], [[4.0, 0.0], [0.0, 4.0]]]
WEIGHTS = [[1.0, 2.0, -1.0], [-1.0, -1.0, -1.0]]
FIRST = Objectives.weighing([0], torch.tensor([[1.0, 0.0]]))


def test_before_pooling_and_one_linear_layer_gradcam_is_cam_by_the_number_of_positions() -> None:
    seen = linear(WEIGHTS, ACTIVATION)
    by_hand = [[[-0.75, 4.5], [0.75, 0.0]]]
    for name in ("gradcam", "hirescam", "xgradcam", "reciprocam"):
        assert METHODS[name].run(seen, FIRST).tolist() == by_hand, name


def test_cam_weighs_by_the_classifiers_own_weights() -> None:
    seen = look(small := pooled(), pictures(1))
    weight = small.network.classifier[2].weight.detach()[[2]]
    by_hand = (weight[:, :, None, None] * seen.activations).sum(dim=1)
    assert_same(METHODS["cam"].run(seen, ask((0, 2))), by_hand, 1e-6)


def test_cam_says_why_it_cannot_be_drawn() -> None:
    with pytest.raises(ConfigError, match=r"average pooling and one linear layer alone; 'gradcam' is the same"):
        maps("cam", deep(), pictures(1), ask((0, 0)))


def test_hirescam_is_blank_before_a_normalisation_not_noise() -> None:
    small, targets = tokens(), ask((0, 1))
    seen = look(small, pictures(1))
    noise = (seen.gradients(targets) * seen.activations).sum(dim=1)
    assert 0 < noise.abs().max() < 1e-4 * METHODS["gradcam"].run(seen, targets).abs().max()
    assert not METHODS["hirescam"].run(seen, targets).any()


def test_layercam_drops_the_gradients_below_zero() -> None:
    assert METHODS["layercam"].run(linear(WEIGHTS, ACTIVATION), FIRST).tolist() == [[[0.25, 4.5], [0.75, 1.0]]]


def test_gradcam_plus_plus_follows_equation_19() -> None:
    # gradients 1/4, 1/2, -1/4 at each of 4 positions; sums of activation 10, 8, 8
    # alphas g^2 / (2 g^2 + sum(A) g^3) = 1 / (2 + sum(A) g): 1/4.5, 1/6, and a ReLU drops the third
    # weights 4 * alpha * g: 2/9, 1/3
    by_hand = torch.tensor([[[2 / 9, 4 / 9 + 8 / 3], [6 / 9, 8 / 9]]])
    assert_same(METHODS["gradcam++"].run(linear(WEIGHTS, ACTIVATION), FIRST), by_hand, 1e-6)


def test_gradcam_plus_plus_does_not_underflow() -> None:
    faint = [[weight * 1e-25 for weight in row] for row in WEIGHTS]
    found = METHODS["gradcam++"].run(linear(faint, ACTIVATION), FIRST)
    by_hand = torch.tensor([[[0.5, 1.0 + 8.0], [1.5, 2.0]]]) * 1e-25  # alpha is 1/2 where gradients vanish
    assert_same(found * 1e25, by_hand * 1e25, 1e-6)


def test_ablationcam_weighs_a_channel_by_the_fall_of_the_score() -> None:
    # weight times mean activation: 2.5, 4, -2
    found = METHODS["ablationcam"].run(linear(WEIGHTS, ACTIVATION), FIRST)
    assert_same(found, torch.tensor([[[-5.5, 37.0], [7.5, 2.0]]]), 1e-6)


def test_eigencam_is_the_one_direction_there_is() -> None:
    # The second channel is minus twice the first: one direction, in which the first channel grows.
    shape = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    seen = linear([[1.0, 1.0]], [shape.tolist(), (6 - 2 * shape).tolist()])
    one = Objectives.weighing([0], torch.tensor([[1.0]]))
    by_hand = -(shape - shape.mean()) * 5**0.5  # the sum of both falls where the first channel grows
    assert_same(METHODS["eigencam"].run(seen, one), by_hand[None], 1e-6)
    assert orientation(seen, one) == [{"orientation": 1.0}]


def test_eigengradcam_is_turned_as_gradcam_is() -> None:
    small = deep()
    seen, targets = look(small, pictures()), ask((0, 1), (1, 2), (2, 3))
    found, guide = (METHODS[name].run(seen, targets) for name in ("eigengradcam", "gradcam"))
    assert ((found * (guide - guide.mean(dim=(1, 2), keepdim=True))).sum(dim=(1, 2)) > 0).all()


def test_reciprocam_scores_each_position_alone() -> None:
    small = deep()
    seen = look(small, pictures(1))
    alone = torch.zeros_like(seen.activations)
    alone[..., 2, 3] = seen.activations[..., 2, 3]
    tail = small.network.classifier
    by_hand = tail(alone) - tail(torch.zeros_like(alone))
    assert_same(METHODS["reciprocam"].run(seen, ask((0, 4)))[0, 2, 3], by_hand[0, 4].detach(), 1e-4)


def test_vit_reciprocam_keeps_the_class_token_and_a_blurred_patch() -> None:
    small = tokens()
    seen = look(small, pictures(1))
    heard: list[Tensor] = []
    block = small.network.get_submodule(small.layer.name)
    with block.register_forward_hook(lambda *args: heard.append(args[2])), torch.no_grad():
        small.network(pictures(1))
    masks = torch.zeros(2, 17)
    masks[:, 0] = 1
    masks[0, [1, 2, 5, 6]] = torch.tensor([1 / 4, 1 / 8, 1 / 8, 1 / 16])  # the first patch, a corner of the grid
    encoder = small.network.encoder
    with torch.no_grad():
        after = [small.network.heads(encoder.ln(encoder.layers[2](heard[0] * mask[:, None]))[:, 0]) for mask in masks]
    found = METHODS["vit_reciprocam"].run(seen, ask((0, 3)))
    assert_same(found[0, 0, 0], (after[0] - after[1])[0, 3], 1e-4)


def test_vit_reciprocam_says_that_it_reads_tokens() -> None:
    with pytest.raises(ConfigError, match="reads tokens and 'features' has none"):
        maps("vit_reciprocam", deep(), pictures(1), ask((0, 0)))


def test_scorecam_weighs_by_a_softmax_of_what_masked_pictures_score() -> None:
    small, pixels = deep(), pictures(1)
    seen = look(small, pixels)
    masks = nn.functional.interpolate(seen.activations, size=(SIDE, SIDE), mode="bilinear")
    low, high = seen.activations.amin(dim=(2, 3)), seen.activations.amax(dim=(2, 3))
    masks = torch.nan_to_num((masks - low[:, :, None, None]) / (high - low)[:, :, None, None])
    with torch.no_grad():
        scores = torch.stack([small.network(pixels * masks[:, [k]])[0, 1] for k in range(6)])
    by_hand = (scores.softmax(dim=0)[:, None, None] * seen.activations[0]).sum(dim=0)
    assert_same(METHODS["scorecam"].run(seen, ask((0, 1)))[0], by_hand)


def test_scorecam_is_bounded() -> None:
    small = pooled(channels=70)
    passes: list[int] = []
    seen = look(small, pictures(1))
    with small.network.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0]))):
        METHODS["scorecam"].run(seen, ask((0, 1), (0, 2), (0, 3)))
    assert sum(passes) == 64


def test_the_gradient_of_a_linear_network_is_its_weights() -> None:
    network = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(3 * 4, 2, bias=False)).eval()
    pixels = torch.arange(12.0).reshape(1, 3, 2, 2)
    with Capture(network, (Layer("0"),)) as capture:
        (seen,) = capture.forward(pixels)
    weight = network[2].weight[0].detach().reshape(3, 2, 2)
    assert_same(METHODS["gradient"].run(seen, FIRST)[0], weight.sum(dim=0), 1e-6)
    assert_same(METHODS["smoothgrad"].run(seen, FIRST)[0], weight.sum(dim=0), 1e-6)
    for name in ("input_x_gradient", "integrated_gradients"):
        assert_same(METHODS[name].run(seen, FIRST)[0], (weight * pixels[0]).sum(dim=0), 1e-6)


def test_integrated_gradients_sum_to_the_rise_of_the_score() -> None:
    small, pixels = deep(), pictures(2)
    found = maps("integrated_gradients", small, pixels, ask((0, 1), (1, 2)))
    with torch.no_grad():
        rise = small.network(pixels) - small.network(torch.zeros_like(pixels))
    assert found.sum(dim=(1, 2)).tolist() == pytest.approx([float(rise[0, 1]), float(rise[1, 2])], rel=0.02)


def test_smoothgrad_averages_the_gradients_of_noisy_pictures() -> None:
    small, pixels = deep(), pictures(1)
    noisy = (pixels + smoothing_noise(pixels)[:, 0]).requires_grad_()
    small.network(noisy)[:, 2].sum().backward()
    assert noisy.grad is not None
    assert_same(maps("smoothgrad", small, pixels, ask((0, 2)))[0], noisy.grad.sum(dim=1).mean(dim=0))
    assert len(noisy) == SAMPLES
    assert float((noisy.detach() - pixels).std()) == pytest.approx(NOISE * float(pixels.max() - pixels.min()), rel=0.02)


def test_guided_backprop_and_deconvnet_by_hand() -> None:
    # score 0 = 2 relu(x0) - relu(x1) + relu(x2) with x = 1, 1, -1
    network = nn.Sequential(nn.Identity(), nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(3, 2, bias=False)).eval()
    with torch.no_grad():
        network[3].weight.copy_(torch.tensor([[2.0, -1.0, 1.0], [0.0, 0.0, 0.0]]))
    with Capture(network, (Layer("0"),)) as capture:
        (seen,) = capture.forward(torch.tensor([1.0, 1.0, -1.0]).reshape(1, 3, 1, 1))
    assert METHODS["gradient"].run(seen, FIRST).tolist() == [[[1.0]]]  # 2 - 1
    assert METHODS["guided_backprop"].run(seen, FIRST).tolist() == [[[2.0]]]  # the falling path is closed
    assert METHODS["deconvnet"].run(seen, FIRST).tolist() == [[[3.0]]]  # and the inactive one is open


@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet", "guided_gradcam"])
def test_guided_methods_need_a_relu(name: str) -> None:
    with pytest.raises(ConfigError, match="this network has none"):
        maps(name, smooth(), pictures(1), ask((0, 0)))


def test_guided_gradcam_is_the_product_of_its_parts() -> None:
    small, pixels = deep(), pictures(1)
    coarse = maps("gradcam", small, pixels, ask((0, 1))).clamp(min=0)
    fine = nn.functional.interpolate(coarse[None], size=(SIDE, SIDE), mode="bilinear")[0]
    expected = fine * maps("guided_backprop", small, pixels, ask((0, 1)))
    assert_same(maps("guided_gradcam", small, pixels, ask((0, 1))), expected)


def test_cmwp_by_hand() -> None:
    # Two units h = (x0 + x1, 3 x1 - x0) of x = (1, 1): h = (2, 2); score 0 = h0 - h1.
    # Winners of the class: all to h0, half each to x0, x1. Of its opposite: all to h1, through x1 alone.
    network = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, 3.0]]))
        network[4].weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        network[2].bias.zero_()
    with Capture(network, (Layer("0"),)) as capture:
        (seen,) = capture.forward(torch.ones(1, 1, 1, 2))
    assert METHODS["cmwp"].run(seen, FIRST).tolist() == [[[0.5, -0.5]]]


def test_cmwp_conserves_probability() -> None:
    found = maps("cmwp", deep(), pictures(2), ask((0, 1), (1, 2)))
    assert found.abs().amax(dim=(1, 2)).min() > 1e-3
    assert found.sum(dim=(1, 2)).tolist() == pytest.approx([0.0, 0.0], abs=1e-5)


def test_cmwp_takes_batch_normalisation_into_the_convolution_before_it() -> None:
    torch.manual_seed(0)
    apart = nn.Sequential(
        nn.Identity(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    )
    apart[2].running_mean.uniform_(-0.1, 0.1)
    apart[2].running_var.uniform_(0.5, 2)
    with torch.no_grad():
        apart[2].weight.copy_(torch.tensor([1.0, -1.0, 0.5, -2.0]))  # a negative gain turns a channel over
    apart.eval()
    joined = nn.Sequential(apart[0], nn.utils.fuse_conv_bn_eval(apart[1], apart[2]), *apart[3:])
    found = []
    for network in (apart, joined):
        with Capture(network, (Layer("0"),)) as capture:
            (seen,) = capture.forward(pictures(1)[..., :6, :6].abs())
        found.append(METHODS["cmwp"].run(seen, ask((0, 3))))
    assert_same(found[0], found[1])


def test_cmwp_divides_what_a_sum_was_given_by_its_parts() -> None:
    # h = (x, 3 x) + (x, x) of x = 1 and score = h0 - h1 / 2; a sum's winners are its parts by size: all come from x.
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.last = nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.layer = nn.Identity()

        def forward(self, pixels: Tensor) -> Tensor:
            shown = self.layer(pixels).flatten(1)
            hidden = self.one(shown[:, :1])
            hidden += shown
            return self.last(hidden)

    network = Residual().eval()
    with torch.no_grad():
        network.one.weight.copy_(torch.tensor([[1.0], [3.0]]))
        network.last.weight.copy_(torch.tensor([[1.0, -0.5], [0.0, 0.0]]))
    with Capture(network, (Layer("layer"),)) as capture:
        (seen,) = capture.forward(torch.ones(1, 1, 1, 2))
    # Winners of the class: h0, half from each x0. Of its opposite: h1, 3/4 from x0 and 1/4 from x1.
    assert METHODS["cmwp"].run(seen, FIRST).tolist() == [[[1 - 3 / 4, -1 / 4]]]


def test_cmwp_refuses_an_edit_that_it_cannot_follow() -> None:
    class Edits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Identity(), nn.Linear(2, 2)

        def forward(self, pixels: Tensor) -> Tensor:
            shown = self.layer(pixels).flatten(1)
            shown.add_(pixels.flatten(1))
            return self.last(shown)

    with Capture(settle(Edits()), (Layer("layer"),)) as capture:
        (seen,) = capture.forward(torch.ones(1, 1, 1, 2))
    with pytest.raises(ConfigError, match="in-place operators"):
        METHODS["cmwp"].run(seen, FIRST)


def test_cmwp_names_the_operator_that_it_has_no_rule_for() -> None:
    small = deep()
    small.network.classifier.insert(0, nn.GELU())
    with pytest.raises(ConfigError, match="no rule for the operator 'gelu'"):
        maps("cmwp", small, pictures(1), ask((0, 0)))


def test_the_halves_of_gradcam_add_up_to_it() -> None:
    seen = linear(WEIGHTS, ACTIVATION)
    assert METHODS["gradcam+"].run(seen, FIRST).tolist() == [[[0.25, 4.5], [0.75, 1.0]]]
    assert METHODS["gradcam-"].run(seen, FIRST).tolist() == [[[-1.0, 0.0], [0.0, -1.0]]]


def test_hirescam_and_the_bias_sum_to_the_score() -> None:
    seen = linear(WEIGHTS, ACTIVATION, bias=0.5)
    assert METHODS["hirescam"].run(seen, FIRST).sum() + 0.5 == seen.scores[0, 0]


# What is said about a map


def test_measure_divides_by_the_maximum_and_hides_nothing() -> None:
    signed = np.array([[2.0, -1.0], [0.5, -4.0]], np.float32)
    wanted = measured(signed, "for")
    assert wanted.grid.tolist() == [[1.0, 0.0], [0.25, 0.0]]
    assert (wanted.scale, wanted.positive, wanted.negative, wanted.total) == pytest.approx((2.0, 1 / 3, 2 / 3, -2.5))
    assert measured(signed, "signed").grid.tolist() == [[0.5, -0.25], [0.125, -1.0]]
    blank = measured(-np.abs(signed), "for")
    assert (blank.blank, blank.scale, blank.grid.any(), blank.negative) == (True, 0.0, False, 1.0)
    tiny = measured(signed * np.float32(1e-30), "for")
    assert tiny.grid.max() == 1.0


def test_maps_of_one_batch_are_measured_as_they_are_alone() -> None:
    signed = np.random.default_rng(2).normal(size=(4, 3, 2)).astype(np.float32)
    signed[2, 1, 1] = np.nan
    asked = ["for", "signed", "for", "against"]
    for found, each, evidence in zip(measure(signed, asked), signed, asked):
        alone = measured(each, evidence)
        np.testing.assert_array_equal(found.grid, alone.grid)
        wanted = (alone.scale, alone.positive, alone.negative, alone.total)
        np.testing.assert_array_equal((found.scale, found.positive, found.negative, found.total), wanted)
        assert np.isfinite(found.total) == np.isfinite(each).all()


def test_an_all_negative_map_is_blank_and_its_counterfactual_is_not() -> None:
    seen = linear(WEIGHTS, ACTIVATION)
    second = Objectives.weighing([0, 0], torch.tensor([[0.0, 1.0], [0.0, -1.0]]))
    for_it, against_it = METHODS["gradcam"].run(seen, second).numpy()
    assert measured(for_it, "for").blank
    assert measured(for_it, "signed").grid.min() == -1.0
    assert measured(against_it, "against").grid.max() == 1.0


def test_signs_divide_the_mass_among_the_four_pairs() -> None:
    # gradients 1/4, -1/4; mass p x p: 1+3, p x n: 2, n x p: 1, n x n: 4+5, all by 4
    seen = linear([[1.0, -1.0]], [[[1.0, -2.0], [3.0, 0.0]], [[-4.0, 1.0], [-5.0, 0.0]]])
    one = Objectives.weighing([0], torch.tensor([[1.0]]))
    assert signs(seen, one) == [{"pp": 4 / 16, "pn": 2 / 16, "np": 1 / 16, "nn": 9 / 16}]


def test_signs_of_nothing_are_zero() -> None:
    seen = linear(WEIGHTS, [[[0.0, 0.0], [0.0, 0.0]]] * 3)
    assert signs(seen, FIRST) == [{"pp": 0.0, "pn": 0.0, "np": 0.0, "nn": 0.0}]


def test_a_silu_network_draws_much_of_its_evidence_from_double_negatives() -> None:
    (shares,) = signs(look(smooth(), pictures(1)), ask((0, 1)))
    assert shares["nn"] > 0.03
    assert sum(shares.values()) == pytest.approx(1.0)


def test_channels_are_told_strongest_first() -> None:
    ((first, second),) = channels(linear(WEIGHTS, ACTIVATION), FIRST, top=2)
    assert first == pytest.approx(
        {"channel": 1, "weight": 0.5, "activation": 2.0, "contribution": 4.0, "share": 4 / 8.5}
    )
    assert second == pytest.approx(
        {"channel": 0, "weight": 0.25, "activation": 2.5, "contribution": 2.5, "share": 2.5 / 8.5}
    )


def test_the_contributions_of_all_channels_sum_to_the_map() -> None:
    seen = look(deep(), pictures(1))
    (told,) = channels(seen, ask((0, 1)), top=100)
    assert len(told) == 6
    assert sum(each["contribution"] for each in told) == pytest.approx(
        float(METHODS["gradcam"].run(seen, ask((0, 1))).sum())
    )
    assert sum(each["share"] for each in told) == pytest.approx(1.0)


def test_the_share_of_the_score_is_told_where_it_can_be_known() -> None:
    small, targets = pooled(), ask((0, 1), (1, 2))
    seen = look(small, pictures(2))
    assert share_of_score(seen, targets, METHODS["gradcam"].run(seen, targets)) == pytest.approx([1.0, 1.0])
    other = look(deep(), pictures(2))
    assert share_of_score(other, targets, METHODS["gradcam"].run(other, targets)) == [None, None]


def test_fusion_takes_the_larger_of_scaled_maps() -> None:
    coarse, fine = torch.tensor([[[4.0]]]), torch.tensor([[[0.0, -1.0], [1.0, 2.0]]])
    by_hand = torch.tensor([[[1.0, 1.0], [1.0, 1.0]]])
    assert torch.equal(fuse([coarse, fine], (2, 2)), by_hand)
    blank = -coarse
    lifted = torch.tanh(torch.tensor([[[0.0, 0.0], [1.0, 2.0]]]))
    assert torch.equal(fuse([blank, fine], (2, 2)), lifted)
    assert torch.equal(fuse([fine], (2, 2)), torch.tensor([[[0.0, 0.0], [0.5, 1.0]]]))


def test_the_view_of_pytorch_grad_cam_keeps_its_epsilon() -> None:
    signed = torch.tensor([[[1.0, 3.0], [-5.0, 2.0]]])
    assert_same(pytorch_grad_cam_view(signed, (2, 2)), signed.clamp(min=0) / 3, 1e-6)
    assert pytorch_grad_cam_view(signed * 1e-15, (2, 2)).max() < 0.3  # theirs never reaches 1; ``measure`` does
