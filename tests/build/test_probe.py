"""The target layer of every kind of classifier is found by running it, and a layer that shows nothing is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig

from camserve.attribution.methods.gradcam import gradcam
from camserve.attribution.objectives import Objectives
from camserve.bench.networks import wake
from camserve.build.probe import check_layer, find_layer, probe
from camserve.errors import ConfigError
from camserve.network.output import ScoringNetwork, scores_of
from camserve.values import Layer
from small_networks import CLASSES, SIDE, Network, Small, deep, objectives_for, pictures, pooled, settle, tokens, watch
from zoo_models import TOLERANCE, plain_gradcam

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the libraries' own imports
    import timm
    import transformers

models = torchvision.models


class Kind(NamedTuple):
    build: Callable[[], nn.Module]
    size: tuple[int, int]
    layer: Layer


def vit(**more: Any) -> nn.Module:
    """A timm vision transformer, small but with every part."""
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
    return timm.models.VisionTransformer(**{**sizes, **more})


def mixer() -> nn.Module:
    return timm.models.MlpMixer(img_size=64, patch_size=16, embed_dim=32, num_blocks=2, num_classes=CLASSES)


def swin() -> nn.Module:
    return models.SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=CLASSES)


def convnext() -> nn.Module:
    return models.ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=CLASSES)


def hf(name: str, **sizes: Any) -> nn.Module:
    config = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **sizes)
    return getattr(transformers, f"{name}ForImageClassification")(config)


def vgg() -> nn.Module:
    """Torchvision's own trunk of a VGG, with a head that is quick to build."""
    head = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(16 * 49, CLASSES))
    return Network(models.vgg.make_layers([8, "M", 16, "M", 16, 16, "M"]), head)


def inception() -> nn.Module:
    return models.inception_v3(init_weights=False, aux_logits=True)


TV = {
    "resnet18": Kind(models.resnet18, (64, 96), Layer("layer4", grid=(2, 3))),
    "vgg11": Kind(vgg, (64, 96), Layer("features.9", grid=(16, 24))),
    "alexnet": Kind(models.alexnet, (128, 128), Layer("features.11", grid=(7, 7))),
    "densenet121": Kind(models.densenet121, (64, 64), Layer("features", grid=(2, 2))),
    "mobilenet_v3_small": Kind(models.mobilenet_v3_small, (64, 64), Layer("features", grid=(2, 2))),
    "squeezenet1_1": Kind(models.squeezenet1_1, (64, 64), Layer("features", grid=(3, 3))),
    "googlenet": Kind(lambda: models.googlenet(init_weights=False), (64, 64), Layer("inception5b", grid=(2, 2))),
    "inception_v3": Kind(inception, (107, 107), Layer("Mixed_7c", grid=(2, 2))),
    "shufflenet": Kind(models.shufflenet_v2_x0_5, (64, 64), Layer("conv5", grid=(2, 2))),
    "swin": Kind(swin, (64, 64), Layer("norm", "NHWC", grid=(8, 8))),
    "convnext": Kind(convnext, (64, 32), Layer("features", grid=(8, 4))),
    "vit": Kind(lambda: tokens().network, (SIDE, SIDE), Layer("encoder.layers.encoder_layer_2.ln_1", "NLC", 1, (4, 4))),
}
TIMM = {
    "class token": Kind(vit, (64, 64), Layer("blocks.1.norm1", "NLC", 1, (4, 4))),
    "registers": Kind(lambda: vit(reg_tokens=4), (64, 64), Layer("blocks.1.norm1", "NLC", 5, (4, 4))),
    "any size": Kind(lambda: vit(dynamic_img_size=True), (64, 96), Layer("blocks.1.norm1", "NLC", 1, (4, 6))),
    "mean of tokens": Kind(
        lambda: vit(global_pool="avg", class_token=False), (64, 64), Layer("blocks", "NLC", 0, (4, 4))
    ),
    "attention pool": Kind(
        lambda: vit(global_pool="map", class_token=False, fc_norm=False), (64, 64), Layer("norm", "NLC", 0, (4, 4))
    ),
    "mixer": Kind(mixer, (64, 64), Layer("norm", "NLC", 0, (4, 4))),
    "convnext_atto": Kind(lambda: timm.create_model("convnext_atto"), (64, 64), Layer("stages", grid=(2, 2))),
}
HF = {
    "resnet": Kind(
        lambda: hf("ResNet", hidden_sizes=[16, 32], depths=[1, 1], embedding_size=8, layer_type="basic"),
        (64, 64),
        Layer("resnet.encoder.stages.1", grid=(8, 8)),
    ),
    "vit": Kind(
        lambda: hf(
            "ViT", image_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
        ),
        (64, 64),
        Layer("vit.layers.1.layernorm_before", "NLC", 1, (4, 4)),
    ),
    "swin": Kind(
        lambda: hf("Swin", image_size=64, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4),
        (64, 64),
        Layer("swin.layernorm", "NLC", 0, (8, 8)),
    ),
    "convnext": Kind(
        lambda: hf("ConvNext", image_size=64, hidden_sizes=[16, 32], depths=[1, 1], num_stages=2),
        (64, 64),
        Layer("convnext.encoder.stages.1", grid=(8, 8)),
    ),
}
KINDS = {
    f"{family} {name}": kind
    for family, kinds in {"tv": TV, "timm": TIMM, "hf": HF}.items()
    for name, kind in kinds.items()
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_last_layer_with_positions_and_gradient_is_found_and_its_map_is_right(kind):
    torch.manual_seed(0)
    network = ScoringNetwork(wake(kind.build().eval()))
    layer = find_layer(network, kind.size)
    assert layer == kind.layer
    assert check_layer(network, layer.name, kind.size) == layer
    pixels = torch.randn(2, 3, *kind.size, generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([1, 3])
    output = watch(Small(network, layer), pixels)
    ours = gradcam(output, Objectives.weighing(range(2), torch.eye(output.scores.shape[1])[classes]))
    plain = plain_gradcam(network, layer, pixels, classes)
    assert plain.abs().max() > 0
    assert (ours - plain).abs().max() <= TOLERANCE * plain.abs().max()


class Twice(nn.Module):
    """One block, called twice with shared weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=4, padding=1)
        self.block = nn.Conv2d(6, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.act(self.stem(pixels))
        hidden = self.act(self.block(hidden))
        hidden = self.act(self.block(hidden))
        return self.fc(hidden.mean(dim=(2, 3)))


class Odd(nn.Module):
    """Runs its parts as it is told, and answers as it is told."""

    def __init__(self, answer: Callable[[Tensor], Any] = lambda scores: scores) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4, padding=1), nn.ReLU(inplace=True))
        self.unused = nn.Conv2d(6, 6, 1)
        self.branch = nn.Conv2d(6, 6, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, CLASSES)
        self.answer = answer

    def forward(self, pixels: Tensor) -> Any:
        hidden = self.features(pixels)
        self.branch(hidden)
        return self.answer(self.fc(self.pool(hidden).flatten(1)))


class Pair(nn.Module):
    """A trunk that gives a tuple, as detectors' trunks do."""

    def __init__(self, kind: type = tuple) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 6, 3, stride=4, padding=1)

    def forward(self, pixels: Tensor) -> Any:
        return self.kind([self.conv(pixels) * 2, pixels])


class Paired(nn.Module):
    def __init__(self, kind: type = tuple) -> None:
        super().__init__()
        self.trunk = Pair(kind)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.fc(self.trunk(pixels)[0].mean(dim=(2, 3)))


class Frozen(nn.Module):
    """A trunk that is run without gradients, as in transfer learning."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 6, 3, stride=4, padding=1)
        self.neck = nn.Conv2d(6, 6, 1)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.trunk(pixels)
        return self.fc(self.neck(hidden).mean(dim=(2, 3)))


class Added(nn.Module):
    """The last convolution's output is added to what it read, outside any module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=4, padding=1)
        self.last = nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.stem(pixels)
        return self.fc((hidden + self.last(hidden)).mean(dim=(2, 3)))


class Latents(nn.Module):
    """Sixteen learned tokens gather what the picture holds: as many as a grid of 4 x 4, and none in a place."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 8, 4, stride=4)
        self.embedding = nn.Parameter(torch.zeros(64, 8))  # one a position, so one size only
        self.latents = nn.Parameter(torch.zeros(16, 8))
        self.gather = nn.MultiheadAttention(8, 1, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8 * 16, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.trunk(pixels).flatten(2).transpose(1, 2) + self.embedding
        gathered, _ = self.gather(self.latents.expand(len(pixels), -1, -1), tokens, tokens)
        return self.fc(self.norm(gathered).flatten(1))


class Turned(nn.Module):
    """Swaps rows and columns on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 8, 4, stride=4)
        self.turned = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.fc(self.turned(self.trunk(pixels).transpose(2, 3)).mean(dim=(2, 3)))


class Sideways(nn.Module):
    """Channels last, in a network that takes any size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.fc(self.norm(self.stem(pixels).permute(0, 2, 3, 1)).mean(dim=(1, 2)))


def flat() -> nn.Module:
    """A network for one picture size only: its head is a linear layer on every position."""
    features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout())
    return Network(features, nn.Sequential(nn.Flatten(), nn.Linear(8 * 49, CLASSES)))


def convolutional() -> nn.Module:
    """No linear layer: the last convolution gives one map a class."""
    return Network(
        nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


HAND_MADE = {
    "closed form": (lambda: pooled().network, Layer("features", grid=(8, 8))),
    "before pooling": (lambda: deep().network, Layer("features", grid=(7, 7))),
    "shared, called twice": (Twice, Layer("act", grid=(8, 8), call=2)),
    "tuple inside": (Paired, Layer("trunk", grid=(8, 8))),
    "list inside": (lambda: Paired(list), Layer("trunk.conv", grid=(8, 8))),
    "trunk without gradients": (Frozen, Layer("neck", grid=(8, 8))),
    "branches that are added": (Added, Layer("stem", grid=(8, 8))),
    "latents": (Latents, Layer("trunk", grid=(8, 8))),
    "rows and columns swapped": (Turned, Layer("trunk", grid=(8, 8))),
    "channels last": (Sideways, Layer("norm", "NHWC", grid=(8, 8))),
    "one size only": (flat, Layer("features.1", grid=(15, 15))),
    "score maps": (convolutional, Layer("features", grid=(8, 8))),
    "a branch that nobody reads": (Odd, Layer("features", grid=(8, 8))),
}


@pytest.mark.parametrize(("build", "layer"), HAND_MADE.values(), ids=HAND_MADE)
def test_what_a_network_does_is_watched_whatever_its_parts_are_called(build, layer):
    network = settle(build())
    assert find_layer(network, (SIDE, SIDE)) == layer
    gradients = watch(Small(network, layer), pictures(2)).gradients(objectives_for((0, 0), (1, 1)))
    assert gradients.abs().sum(dim=(1, 2, 3)).min() > 0


def test_where_there_is_nothing_but_score_maps_they_are_taken():
    network = settle(nn.Sequential(nn.Conv2d(3, CLASSES, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert find_layer(network, (SIDE, SIDE)) == Layer("0", grid=(8, 8))


def test_what_was_passed_over_is_told_with_the_reason():
    finding = probe(tokens().network, (SIDE, SIDE))
    told = {each.name: each.reason for each in finding.refused}
    assert told["heads"] == "its output of shape (N, 5) has no spatial extent"
    assert told["encoder.layers.encoder_layer_2"] == "the scores' gradient reaches none of its positions"
    assert finding.layer.name not in told


UNFIT = {
    "blocks.1": (
        vit,
        "layer 'blocks.1' carries no evidence: the scores' gradient reaches none of its positions; "
        "'blocks.1.norm1' does",
    ),
    "head": (
        vit,
        "layer 'head' carries no evidence: its output of shape (N, 5) has no spatial extent; 'blocks.1.norm1' does",
    ),
    "pool": (
        Odd,
        "layer 'pool' carries no evidence: its output of shape (N, 6, 1, 1) has no spatial extent; 'features' does",
    ),
    "unused": (Odd, "layer 'unused' carries no evidence: it does not run in a forward pass; 'features' does"),
    "branch": (
        Odd,
        "layer 'branch' carries no evidence: the scores' gradient reaches none of its positions; 'features' does",
    ),
    "norm": (
        Latents,
        "layer 'norm' carries no evidence: the positions of its output do not lie where the picture's do; 'trunk' does",
    ),
    "feature": (Odd, "the network has no module named 'feature'; did you mean 'features'?"),
    "trunk": (
        lambda: Paired(list),
        "layer 'trunk' carries no evidence: its output is a list, not a tensor; 'trunk.conv' does",
    ),
}


@pytest.mark.parametrize(("name", "build", "message"), [(name, *rest) for name, rest in UNFIT.items()], ids=UNFIT)
def test_a_named_layer_that_shows_nothing_is_refused_with_the_reason(name, build, message):
    side = 64 if build is vit else SIDE
    with pytest.raises(ConfigError) as refusal:
        check_layer(settle(build()), name, (side, side))
    assert str(refusal.value) == message


def test_a_named_layer_may_lie_anywhere_that_evidence_passes():
    network = vit().eval()
    assert check_layer(network, "blocks.0", (64, 64)) == Layer("blocks.0", "NLC", 1, (4, 4))
    assert check_layer(settle(Twice()), "block", (SIDE, SIDE)) == Layer("block", grid=(8, 8), call=1)


def test_untrained_scores_are_not_taken_for_evidence():
    network = settle(Odd())
    nn.init.zeros_(network.fc.weight)
    with pytest.raises(ConfigError, match="scores of two random pictures are equal: are the weights loaded"):
        find_layer(network, (SIDE, SIDE))


def test_a_network_without_positions_is_refused():
    network = settle(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES)))
    with pytest.raises(ConfigError, match="no module of the network has an output whose positions"):
        find_layer(network, (SIDE, SIDE))


def state(network: nn.Module) -> list[object]:
    modes = [(module.training, len(module._forward_hooks)) for module in network.modules()]
    return [*modes, *((each.requires_grad, each.grad is None) for each in network.parameters())]


@pytest.mark.parametrize("training", [True, False])
def test_the_network_comes_back_as_it_went_in(training):
    network = deep().network.train(training)
    network.classifier.eval()
    network.features[0].requires_grad_(False)
    before, weights = state(network), {name: each.clone() for name, each in network.state_dict().items()}
    layer = find_layer(network, (SIDE, SIDE))
    assert state(network) == before
    assert all(torch.equal(each, weights[name]) for name, each in network.state_dict().items())
    assert layer == find_layer(network.eval(), (SIDE, SIDE))


def test_the_network_comes_back_as_it_went_in_after_an_exception():
    network = deep().network.train()
    before = state(network)
    with pytest.raises(ConfigError, match=r"the network fails on a picture of 40 x 40 pixels: RuntimeError: mat1"):
        find_layer(network, (40, 40))
    assert state(network) == before


class Answer(NamedTuple):
    logits: Tensor


ANSWERS = {
    "tensor": lambda scores: scores,
    "trailing axes": lambda scores: scores[:, :, None, None],
    "tuple": lambda scores: (scores[:, :, None], scores, scores * 2),
    "list": lambda scores: [scores, scores * 2],
    "logits": lambda scores: {"loss": scores * 2, "logits": scores},
    "mapping": lambda scores: {"features": scores[:, :, None], "scores": scores, "aux": scores * 2},
    "object": Answer,
    "transformers": lambda scores: transformers.modeling_outputs.ImageClassifierOutput(logits=scores),
    "half": lambda scores: scores.bfloat16(),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_scores_are_found_in_any_kind_of_answer(answer):
    plain, odd = settle(Odd()), ScoringNetwork(settle(Odd(answer)))
    scores = odd(pictures())
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, plain(pictures()), atol=0.02 if answer is ANSWERS["half"] else 0, rtol=0)
    assert find_layer(odd, (SIDE, SIDE)) == find_layer(plain, (SIDE, SIDE))


def test_one_score_a_picture_becomes_one_class():
    assert scores_of(torch.tensor([1.0, 2.0])).tolist() == [[1.0], [2.0]]
    network = ScoringNetwork(settle(Odd(lambda scores: scores[:, 0])))
    assert network(pictures()).shape == (3, 1)
    assert find_layer(network, (SIDE, SIDE)).name == "features"


NO_SCORES = {
    "a tuple of (2, 3, 4), str": (torch.zeros(2, 3, 4), "x"),
    "a dict of features: (2, 3, 4)": {"features": torch.zeros(2, 3, 4)},
    "a float32 tensor of shape (2, 3, 4)": torch.zeros(2, 3, 4),
    "a int64 tensor of shape (2, 3)": torch.zeros(2, 3, dtype=torch.int64),
    "a NoneType without logits": None,
}


@pytest.mark.parametrize(("described", "output"), NO_SCORES.items(), ids=NO_SCORES)
def test_an_answer_without_scores_is_described(described, output):
    with pytest.raises(ConfigError) as refusal:
        scores_of(output)
    assert str(refusal.value) == f"the classifier returns {described}; it must return scores of shape (N, classes)"


def test_the_wrapper_keeps_names_modes_and_parameters():
    network = deep().network
    wrapped = ScoringNetwork(network)
    assert dict(wrapped.named_modules()) == dict(network.named_modules())
    assert dict(wrapped.named_parameters()).keys() == dict(network.named_parameters()).keys()
    assert wrapped.get_submodule("features.0") is network.features[0]
    wrapped.train().requires_grad_(False).double()
    assert all(module.training for module in network.modules())
    assert not any(each.requires_grad for each in network.parameters())
    assert {each.dtype for each in network.parameters()} == {torch.float64}
