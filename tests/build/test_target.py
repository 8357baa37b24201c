"""Where the maps of any network are read, and how much of what makes its scores differ passes there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from camserve.build.probe.share import corners_of, share_through
from camserve.build.probe.target import find_target
from camserve.build.recipe import Recipe
from camserve.build.trial.examine import examine
from camserve.errors import ConfigError
from camserve.network.output import ScoringNetwork
from camserve.output_spec import OutputSpec
from camserve.values import Layer
from odd_networks import Added, Odd, Twice
from small_networks import CLASSES, NETWORKS, SIDE, pictures, settle, tokens


class Ensemble(nn.Module):
    """Two members, of which the first weighs more."""

    def __init__(self, weight: float, second: nn.Module) -> None:
        super().__init__()
        self.one, self.two = Odd(), second
        self.weight = weight

    def forward(self, pixels: Tensor) -> Tensor:
        return self.weight * self.one(pixels) + self.two(pixels)


class Coarse(nn.Module):
    """A member with a grid of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=8, padding=1), nn.ReLU(inplace=True))
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.fc(self.features(pixels).mean(dim=(2, 3)))


class Changed(Odd):
    """Does something to its input first."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(self.change(pixels))


class CutOff(Odd):
    """Its trunk runs where no gradient passes."""

    def __init__(self, cut, outside: bool) -> None:
        super().__init__()
        self.cut, self.outside = cut, outside

    def forward(self, pixels: Tensor) -> Tensor:
        with self.cut():
            hidden = self.features(pixels)
            pooled = None if self.outside else self.pool(hidden)
        return self.fc((self.pool(hidden) if pooled is None else pooled).flatten(1))


class Detached(Odd):
    def forward(self, pixels: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(pixels).detach()).flatten(1))


class Grainy(Odd):
    """Beside its features it reads how much neighbouring pixels differ, which is much in noise and little in photos."""

    def forward(self, pixels: Tensor) -> Tensor:
        grain = pixels.diff(dim=3).square().mean(dim=(1, 2, 3))
        return super().forward(pixels) + grain[:, None] * torch.arange(CLASSES)


def target_of(network, output=None):
    return find_target(ScoringNetwork(settle(network), output or OutputSpec()), torch.cat([pictures(), -pictures()]))


def test_the_whole_of_a_plain_network_passes_its_target():
    for name, build in NETWORKS.items():
        (layer,) = target_of(build().network).layers
        assert (layer.share == 1) == (name != "class token"), name
    assert target_of(Twice()).layers[0].share == 1


def test_what_a_class_token_has_gathered_before_does_not_pass_the_last_block():
    (layer,) = target_of(tokens().network).layers
    assert layer.name == "encoder.layers.encoder_layer_1.ln_1"
    assert layer.share < 0.9


def test_all_members_of_an_ensemble_are_added_up():
    for network, output in (
        (Ensemble(10, Odd()), OutputSpec()),
        (Ensemble(1, Odd()), OutputSpec()),
    ):
        target = target_of(network, output)
        assert set(target.members) == {"one.features", "two.features"}
        assert target.share == pytest.approx(1)
        assert max(layer.share for layer in target.layers) < 1


def test_a_member_with_another_grid_is_left_out_and_the_share_says_so():
    target = target_of(Ensemble(10, Coarse()))
    (layer,) = target.layers
    assert target.members == ()
    assert layer.name == "two.features"
    assert layer.share < 0.3


def test_the_share_is_that_of_the_variance():
    network = ScoringNetwork(settle(Ensemble(3, Odd())))
    pixels = torch.cat([pictures(), -pictures()])
    one, two = (member(pixels) for member in (network.classifier.one, network.classifier.two))
    one, two = one.detach(), two.detach()
    rest = 3 * (one - one.roll(1, 0))
    whole = rest + two - two.roll(1, 0)
    expected = max(0.0, 1 - float(rest.square().sum() / whole.square().sum()))
    assert share_through(network, [Layer("two.features", grid=(8, 8))], pixels) == pytest.approx(expected, abs=1e-5)
    assert share_through(network, [Layer("one", grid=(1, 1)), Layer("two", grid=(1, 1))], pixels) == 1


def test_the_share_is_measured_on_corners_of_photos_and_not_beside_noise() -> None:
    network = ScoringNetwork(settle(Grainy()))
    noise = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    slopes = torch.linspace(-2, 2, SIDE)
    photo = torch.stack([slopes[None] * slopes[:, None], slopes.expand(SIDE, SIDE), slopes.expand(SIDE, SIDE).T])[None]
    pixels = torch.cat([noise, photo])
    assert find_target(network, pixels).layers[0].share < 0.5
    examined = examine(network, Recipe("net", "net.pt"), pixels, [None], lambda line: None)
    assert examined.target.layers[0].share > 0.95


def test_the_members_of_an_ensemble_are_found_beside_a_sample_without_contrast() -> None:
    network = ScoringNetwork(settle(Ensemble(1, Odd())))
    noise = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    faint = torch.linspace(0, 1e-3, SIDE).expand(1, 3, SIDE, SIDE)
    for sample in (torch.full((1, 3, SIDE, SIDE), 0.5), 0.5 + faint):
        examined = examine(network, Recipe("net", "net.pt"), torch.cat([noise, sample]), [None], lambda line: None)
        assert set(examined.target.members) == {"one.features", "two.features"}
        assert examined.target.share == pytest.approx(1)
        assert max(layer.share for layer in examined.target.layers) < 1


def test_scores_that_never_differ_pass_no_layer() -> None:
    network = ScoringNetwork(settle(Odd()))
    assert share_through(network, [Layer("features", grid=(8, 8))], pictures()[:1].repeat(3, 1, 1, 1)) == 0


def test_corners_are_those_of_the_first_pictures() -> None:
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")
    corners = corners_of(torch.stack([rows, columns])[None].repeat(3, 1, 1, 1))
    assert corners.shape == (8, 2, 6, 9)
    ends = [[float(end) for axis in one for end in axis.aminmax()] for one in corners[:4]]
    assert ends == [pytest.approx(end) for end in ([0, 3, 0, 5], [0, 3, 3, 8], [2, 5, 0, 5], [2, 5, 3, 8])]


def test_what_passes_a_skip_connection_is_part_of_the_target():
    (layer,) = target_of(Added()).layers
    assert layer.name == "stem"
    assert layer.share == 1


def test_a_mirrored_input_is_no_target():
    with pytest.raises(ConfigError, match="positions of its output do not lie where the picture's do"):
        target_of(Changed(lambda pixels: pixels.flip(3)))
    with pytest.raises(ConfigError, match="positions of its output do not lie where the picture's do"):
        target_of(Changed(lambda pixels: pixels.flip(2)))


def test_augmentation_at_test_time_is_explained_by_its_upright_half():
    class Augmented(Odd):
        def forward(self, pixels):
            return super().forward(pixels) + super().forward(pixels.flip(3))

    (layer,) = target_of(Augmented()).layers
    assert (layer.name, layer.call) == ("features", 0)
    assert layer.share < 0.95


def test_a_crop_inside_the_network_is_refused():
    for crop in (lambda pixels: pixels[:, :, 4:-4, 4:-4], lambda pixels: pixels[:, :, :, SIDE // 4 :]):
        with pytest.raises(ConfigError, match=r"does not look at the outermost pixels at the .*let input.crop do that"):
            target_of(Changed(crop))


def test_a_trunk_without_gradients_is_explained_all_the_same():
    for cut in (torch.no_grad, torch.inference_mode):
        target = target_of(CutOff(cut, outside=True))
        assert (target.layers[0].name, target.gradients) == ("features", True)
        target = target_of(CutOff(cut, outside=False))
        assert (target.layers[0].name, target.gradients) == ("features", False)
    target = target_of(Detached())
    assert (target.layers[0].name, target.gradients) == ("features", False)
