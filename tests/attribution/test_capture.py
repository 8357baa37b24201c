"""One watched forward pass: the trunk builds no graph, the tail can be run again, the network comes back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig

from camserve.attribution.capture import Capture, LayerOutput, off_grid, on_grid
from camserve.attribution.linear_head import find_head
from camserve.attribution.objectives import Objectives
from camserve.attribution.tape import Head
from camserve.errors import ConfigError
from camserve.fast.prepare import prepare
from camserve.network.output import ScoringNetwork
from camserve.settings import RuntimeSpec
from camserve.values import Layer
from small_networks import CLASSES, SIDE, Small, deep, pictures, pooled, settle, tokens

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return getattr(torchvision.models, name)(num_classes=CLASSES, **options).eval()


def vgg() -> nn.Module:
    network = build("vgg11")
    network.classifier = nn.Sequential(nn.Linear(512 * 49, 16), nn.ReLU(inplace=True), nn.Linear(16, CLASSES))
    return network.eval()


def swin() -> nn.Module:
    return settle(torchvision.models.SwinTransformer([2, 2], 8, [2, 2], [2, 4], [4, 4], num_classes=CLASSES))


def convnext() -> nn.Module:
    return settle(
        torchvision.models.ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=CLASSES)
    )


# Tails of every kind: in-place edits, skip connections from before the layer, views, attention, shifted windows.
TAILS: dict[str, Callable[[], Small]] = {
    "resnet18 end": lambda: Small(build("resnet18"), Layer("layer4")),
    "resnet18 branch": lambda: Small(build("resnet18"), Layer("layer3.1.conv1")),
    "resnet18 skip": lambda: Small(build("resnet18"), Layer("layer4.0.downsample")),
    "densenet121 end": lambda: Small(build("densenet121"), Layer("features")),
    "densenet121 middle": lambda: Small(build("densenet121"), Layer("features.denseblock4.denselayer9")),
    "vgg11": lambda: Small(vgg(), Layer("features.19")),
    "efficientnet_b0": lambda: Small(settle(build("efficientnet_b0")), Layer("features.6")),
    "shufflenet": lambda: Small(build("shufflenet_v2_x0_5"), Layer("stage3")),
    "convnext": lambda: Small(convnext(), Layer("features.1")),
    "swin": lambda: Small(swin(), Layer("features.1", "NHWC")),
    "vit": tokens,
    "batch normalisation, in place": deep,
}


def look(small: Small, pixels: Tensor, tape: bool = False) -> LayerOutput:
    with Capture(small.network, (small.layer,)) as capture:
        (seen,) = capture.forward(pixels, tape)
    return seen


def edited(small: Small, pixels: Tensor, edit: Callable[[Tensor], Tensor]) -> Tensor:
    """The scores when the layer's output is edited on its way, by running the whole network."""
    layer = small.layer

    def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
        return off_grid(edit(on_grid(output, layer)), layer, output)

    with small.network.get_submodule(layer.name).register_forward_hook(hook), torch.no_grad():
        return small.network(pixels)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", TAILS)
def test_the_tail_alone_gives_the_scores_of_the_whole_network(name: str, device: str) -> None:
    small = TAILS[name]()
    small.network.to(device)
    pixels = pictures(2).to(device)
    seen = look(small, pixels, tape=True)
    with torch.no_grad():
        plain = small.network(pixels)
    assert torch.allclose(seen.scores, plain, atol=1e-6)  # attention takes another path where nobody asks for gradients
    assert torch.equal(seen.rescore(seen.activations), seen.scores)
    for edit in (lambda shown: shown * -2, torch.zeros_like, lambda shown: shown.flip(1, 2) + 1):
        rescored, truth = seen.rescore(edit(seen.activations)), edited(small, pixels, edit)
        assert torch.allclose(rescored, truth, rtol=1e-5, atol=1e-6 * float(truth.abs().max()))
        assert name == "vit" or not torch.equal(rescored, plain)
    assert torch.equal(seen.rescore(seen.activations), seen.scores)  # what was run leaves nothing behind


@pytest.mark.parametrize("name", TAILS)
def test_the_tail_runs_again_without_the_trunk(name: str) -> None:
    small = TAILS[name]()
    seen = look(small, pictures(1), tape=True)
    ran: list[nn.Module] = []
    for module in small.network.modules():
        module.register_forward_hook(lambda each, *_: ran.append(each))
    seen.rescore(seen.activations)
    assert ran == []


class Tail(nn.Module):
    """A network made of its layer and any function as its tail."""

    def __init__(self, tail: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, CLASSES, 4, stride=4)
        self.tail = tail

    def forward(self, pixels: Tensor) -> Tensor:
        before = pixels.mean(dim=(2, 3), keepdim=True).expand(-1, -1, 8, 8).contiguous()
        return self.tail(self.layer(pixels), before)


def written_into_what_came_before(shown: Tensor, before: Tensor) -> Tensor:
    used = before * shown[:, :3]
    before += used
    return torch.cat([before, used], dim=1)[:, :CLASSES].mean(dim=(2, 3))


def read_before_it_is_overwritten(shown: Tensor, before: Tensor) -> Tensor:
    first = shown[:, :3] * before
    before.zero_()
    return torch.cat([first, shown[:, 3:] + before[:, :2]], dim=1).mean(dim=(2, 3))


def gathered_in_a_buffer(shown: Tensor, before: Tensor) -> Tensor:
    buffer = torch.zeros_like(shown)
    view = buffer.view(len(shown), CLASSES, -1)
    buffer[:, 1:] = shown[:, :-1]
    buffer[:, 0] = before[:, 0]
    return (view**2).mean(dim=2)


def edited_in_place(shown: Tensor, before: Tensor) -> Tensor:
    half = shown[:, ::2]
    half.relu_().mul_(3)
    shown[:, 1] = 1.0
    return shown.sub_(before[:, :1]).mean(dim=(2, 3))


def split_and_joined(shown: Tensor, _: Tensor) -> Tensor:
    one, *others = shown.permute(0, 2, 3, 1).chunk(CLASSES, dim=-1)
    return torch.stack([each.flatten(1).amax(dim=1) for each in (*others, one)], dim=1)


@pytest.mark.parametrize(
    "tail",
    [
        written_into_what_came_before,
        read_before_it_is_overwritten,
        gathered_in_a_buffer,
        edited_in_place,
        split_and_joined,
    ],
)
def test_the_tail_may_work_in_place(tail: Callable[[Tensor, Tensor], Tensor]) -> None:
    small = Small(settle(Tail(tail)), Layer("layer"))
    pixels = pictures(2)
    seen = look(small, pixels, tape=True)
    with torch.no_grad():
        assert torch.equal(seen.rescore(seen.activations), small.network(pixels))
    for edit in (torch.neg, torch.zeros_like):
        assert torch.allclose(seen.rescore(edit(seen.activations)), edited(small, pixels, edit))


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (lambda shown, _: shown.mean(dim=(2, 3)) * (2 if shown.sum() > 0 else 3), "decides by the values"),
        (lambda shown, _: shown[shown > 0].mean() * torch.ones(len(shown), CLASSES), "depends on the values"),
        (lambda _, before: before[:, 0, 0, :CLASSES], "do not depend on this layer"),
    ],
)
def test_a_tail_that_cannot_be_run_again_is_refused(tail: Callable[[Tensor, Tensor], Tensor], reason: str) -> None:
    small = Small(settle(Tail(tail)), Layer("layer"))
    seen = look(small, pictures(1), tape=True)
    with pytest.raises(ConfigError, match=f"the tail after 'layer' cannot be run again.*{reason}"):
        seen.rescore(-seen.activations)


class OneAtATime(torch.autograd.Function):
    """An operator whose backward pass looks at its gradient, and so takes no batch of them."""

    @staticmethod
    def forward(ctx: Any, shown: Tensor) -> Tensor:
        return shown * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2 if gradient.any() else gradient


def test_a_tail_that_takes_one_gradient_at_a_time_gets_one_at_a_time() -> None:
    small = Small(settle(Tail(lambda shown, _: OneAtATime.apply(shown.square()).mean(dim=(2, 3)))), Layer("layer"))
    seen = look(small, pictures(2))
    rows = [0, 0, 1]
    found = seen.gradients(Objectives.weighing(rows, torch.eye(CLASSES)[[0, 3, 1]]))
    for gradient, row, channel in zip(found, rows, (0, 3, 1)):
        expected = torch.zeros_like(gradient)
        expected[channel] = 4 * seen.activations[row, channel] / gradient[0].numel()
        assert torch.allclose(gradient, expected)


def test_the_tail_must_have_been_recorded() -> None:
    seen = look(deep(), pictures(1))
    with pytest.raises(ConfigError, match=r"was not recorded: Capture.forward\(pixels, tape=True\)"):
        seen.rescore(seen.activations)


def graphs(small: Small, heads: dict) -> dict[str, bool]:
    """Which modules' outputs are in an autograd graph during a watched forward pass."""
    found: dict[str, bool] = {}
    for name, module in small.network.named_modules():
        module.register_forward_hook(lambda _, __, output, name=name: found.update({name: output.requires_grad}))
    with Capture(small.network, (small.layer,), heads) as capture:
        capture.forward(pictures(1))
    return found


def test_only_the_tail_builds_a_graph() -> None:
    found = graphs(deep(), {})
    assert not any(found[f"features.{each}"] for each in range(6))
    assert all(found[f"classifier.{each}"] for each in range(5))


def test_a_known_head_needs_no_graph_at_all() -> None:
    small = pooled()
    head = find_head(small.network, small.layer, (SIDE, SIDE))
    assert head is not None
    assert not any(graphs(small, {small.layer.name: head}).values())


@pytest.mark.parametrize("name", TAILS)
def test_gradients_are_those_of_the_whole_network(name: str) -> None:
    small = TAILS[name]()
    targets = Objectives.weighing([1, 0, 1], torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 1, 0, -1], [0, -2, 0, 0, 0]]))
    seen = look(small, pictures(2))
    means, found = seen.mean_gradients(targets), seen.gradients(targets)
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # the next module may work in place

    with small.network.get_submodule(small.layer.name).register_forward_hook(keep):
        scores = small.network(pictures(2))
    for number, row in enumerate((1, 0, 1)):
        wanted = (targets.weights[number] * scores[row]).sum()
        (truth,) = torch.autograd.grad(wanted, kept[0], retain_graph=True)
        expected = on_grid(truth, small.layer)[row]
        assert float((found[number] - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
        assert float((means[number] - expected.mean(dim=(1, 2))).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_methods_share_one_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: passes.append(1) or grad(*args, **kwargs))
    seen = look(tokens(), pictures(1))
    targets = Objectives.weighing([0], torch.eye(CLASSES)[[2]])
    assert torch.equal(seen.mean_gradients(targets), seen.gradients(targets).mean(dim=(2, 3)))
    seen.mean_gradients(targets)
    assert len(passes) == 1


def test_pictures_whose_last_block_is_kept_pass_in_smaller_groups() -> None:
    for small, expected in ((tokens(), 16), (deep(), 32)):
        assert Capture(small.network, (small.layer,)).pictures_at_once == expected


def test_two_layers_of_one_pass_get_their_own_gradients_and_tapes() -> None:
    network = build("resnet18")
    layers = (Layer("layer2"), Layer("layer4"))
    targets = Objectives.weighing([0], torch.eye(CLASSES)[[2]])
    with Capture(network, layers) as capture:
        both = capture.forward(pictures(1), tape=True)
    for seen, layer in zip(both, layers):
        alone = look(Small(network, layer), pictures(1), tape=True)
        assert torch.equal(seen.activations, alone.activations)
        assert torch.allclose(seen.gradients(targets), alone.gradients(targets))
        assert torch.equal(seen.rescore(-seen.activations), alone.rescore(-seen.activations))


class Shared(nn.Module):
    """One ReLU called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.last = nn.Linear(3, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        twice = self.relu(self.relu(pixels) - 1)
        return self.last(self.relu(twice - 1).mean(dim=(2, 3)))


@pytest.mark.parametrize("call", [0, 1, 2])
def test_the_call_of_a_shared_module_is_counted(call: int) -> None:
    shown = look(Small(settle(Shared()), Layer("relu", call=call)), pictures(1)).activations
    assert torch.allclose(shown, (pictures(1) - call).clamp(min=0))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Layer("features.9"), "no module named 'features.9'"),
        (Layer("features", call=1), "'features' ran 1 times in a forward pass, not 2"),
    ],
)
def test_a_layer_that_is_not_there_is_named(layer: Layer, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        look(Small(deep().network, layer), pictures(1))


def test_a_layer_that_the_scores_ignore_is_named() -> None:
    network = Tail(lambda _, before: before[:, 0, 0, :CLASSES])
    seen = look(Small(network, Layer("layer")), pictures(1))
    with pytest.raises(ConfigError, match="scores do not depend on the output of 'layer'"):
        seen.gradients(Objectives.weighing([0], torch.eye(CLASSES)[[0]]))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(Layer(""), (2, 3, 4, 5)), (Layer("", "NHWC"), (2, 4, 5, 3)), (Layer("", "NLC", 2, (4, 5)), (2, 22, 3))],
)
def test_every_layout_lies_on_the_grid_and_goes_back(layer: Layer, shape: tuple[int, ...]) -> None:
    output = torch.arange(120.0 if len(shape) == 4 else 132.0).reshape(shape)
    grid = on_grid(output, layer)
    assert grid.shape == (2, 3, 4, 5)
    assert torch.equal(off_grid(grid, layer, output), output)
    first = {"NCHW": (0, 0, 0, 1), "NHWC": (0, 0, 1, 0), "NLC": (0, 3, 0)}
    assert grid[0, 0, 0, 1] == output[first[layer.layout]]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("tape", [False, True])
def test_the_network_is_given_back(fails: bool, tape: bool) -> None:
    small = deep()
    small.network.features.train()
    next(small.network.parameters()).requires_grad_(False)
    if fails:
        small.network.classifier[4] = nn.Linear(1, 1)

    def condition() -> list[object]:
        return [
            [(module.training, len(module._forward_hooks)) for module in small.network.modules()],
            [(each.requires_grad, each.grad) for each in small.network.parameters()],
            [each.tolist() for each in small.network.state_dict().values()],
            torch._C._len_torch_dispatch_stack(),
            torch.is_grad_enabled(),
        ]

    before = condition()
    try:
        seen = look(small, pictures(1), tape)
        seen.gradients(Objectives.weighing([0], torch.eye(CLASSES)[[0]]))
        assert not fails
    except RuntimeError:
        assert fails
    assert condition() == before


# The closed form


class Norm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def tailed(*tail: nn.Module, channels: int = 6) -> Small:
    features = nn.Sequential(nn.Conv2d(3, channels, 8, stride=8), nn.ReLU())
    return Small(settle(nn.Sequential(features, *tail)), Layer("0"))


POOL = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
LINEAR = nn.Linear(6, CLASSES)
HEADS = {
    "pooling, linear": lambda: tailed(*POOL, LINEAR),
    "pooling, dropout, linear": lambda: tailed(*POOL, nn.Dropout(), LINEAR),
    "1x1 convolution, pooling": lambda: tailed(nn.Conv2d(6, CLASSES, 1), *POOL),
    "no bias": lambda: tailed(*POOL, nn.Linear(6, CLASSES, bias=False)),
    "as many channels as classes": lambda: tailed(*POOL, nn.Linear(CLASSES, CLASSES), channels=CLASSES),
}


def hidden(*between: nn.Module, width: int = 12) -> Small:
    return tailed(*POOL, nn.Linear(6, width), *between, nn.Linear(width, CLASSES))


class Unowned(nn.Module):
    """A linear layer whose weights lie in no module that gives its output."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(12, 6)), nn.Parameter(torch.zeros(12))

    def forward(self, pooled: Tensor) -> Tensor:
        return nn.functional.linear(pooled, self.weight, self.bias).relu()


class Bow(nn.Module):
    """A hidden layer that runs twice when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.twice = False

    def forward(self, pooled: Tensor) -> Tensor:
        once = self.first(pooled).relu()
        return self.last(self.first(once) if self.twice else once)


HIDDEN = {
    "ReLU": lambda: hidden(nn.ReLU()),
    "ReLU in place": lambda: hidden(nn.ReLU(inplace=True), nn.Dropout()),
    "ReLU6": lambda: hidden(nn.ReLU6()),
    "Hardswish in place": lambda: hidden(nn.Hardswish(inplace=True), width=600),
    "SiLU": lambda: hidden(nn.SiLU(), width=6),
    "GELU": lambda: hidden(nn.GELU()),
    "tanh": lambda: hidden(nn.Tanh()),
    "no bias": lambda: tailed(*POOL, nn.Linear(6, 12, bias=False), nn.ReLU(), nn.Linear(12, CLASSES, bias=False)),
    "1x1 convolutions": lambda: tailed(
        POOL[0], nn.Conv2d(6, 12, 1), nn.Hardswish(inplace=True), nn.Conv2d(12, CLASSES, 1), nn.Flatten()
    ),
}
NO_HEADS = {
    "ReLU": lambda: tailed(nn.ReLU(), *POOL, LINEAR),
    "in-place ReLU": lambda: tailed(nn.ReLU(inplace=True), *POOL, LINEAR),
    "clamp that no picture reaches": lambda: tailed(nn.Hardtanh(-50, 50), *POOL, LINEAR),
    "layer normalisation": lambda: tailed(Norm(6), *POOL, LINEAR),
    "layer normalisation after pooling": lambda: tailed(*POOL, nn.LayerNorm(6), LINEAR),
    "maximum pooling": lambda: tailed(nn.AdaptiveMaxPool2d(1), nn.Flatten(), LINEAR),
    "no pooling": lambda: tailed(nn.Flatten(), nn.Linear(96, CLASSES)),
    "pooling of a part": lambda: tailed(nn.MaxPool2d(1, stride=2), *POOL, LINEAR),
    "two linear layers": lambda: tailed(*POOL, nn.Linear(6, 6), LINEAR),
    "a hidden layer with another function": lambda: hidden(nn.LeakyReLU()),
    "a hidden layer with other bounds": lambda: hidden(nn.Hardtanh(0, 5)),
    "a hidden layer with an approximation": lambda: hidden(nn.GELU("tanh")),
    "a hidden layer with two functions": lambda: hidden(nn.ReLU(), nn.Tanh()),
    "a hidden layer, normalised": lambda: hidden(nn.LayerNorm(12), nn.ReLU()),
    "a hidden layer that nobody owns": lambda: tailed(*POOL, Unowned(), nn.Linear(12, CLASSES)),
    "two hidden layers": lambda: hidden(nn.ReLU(), nn.Linear(12, 12), nn.ReLU()),
    "maximum pooling, a hidden layer": lambda: tailed(
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, CLASSES)
    ),
    "softmax": lambda: tailed(*POOL, LINEAR, nn.Softmax(dim=1)),
    "densenet121": lambda: Small(build("densenet121"), Layer("features")),
    "convnext": lambda: Small(convnext(), Layer("features.3")),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_found_by_running_the_network(name: str) -> None:
    small = HEADS[name]()
    head = find_head(small.network, small.layer, (SIDE, SIDE))
    assert head is not None
    assert head.residual < 1e-6
    seen = look(small, pictures(3))
    assert torch.allclose(head.scores(seen.activations), seen.scores, atol=1e-6)
    targets = Objectives.weighing([2, 0], torch.randn(2, CLASSES))
    exact = seen.gradients(targets)
    found = head.mean_gradients(targets, exact[0, 0].numel())[:, :, None, None]
    assert torch.allclose(found, exact, rtol=1e-5, atol=1e-8)


def closed(small: Small) -> dict[str, Head]:
    head = find_head(small.network, small.layer, (SIDE, SIDE))
    assert head is not None
    assert head.hidden is not None
    return {small.layer.name: head}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", HIDDEN)
def test_a_hidden_layer_has_a_closed_form(name: str, threads: int) -> None:
    small = HIDDEN[name]()
    heads = closed(small)
    assert not any(graphs(small, heads).values())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for count in (1, 3):
            exact = look(small, pictures(count))
            with Capture(small.network, (small.layer,), heads) as capture:
                (seen,) = capture.forward(pictures(count))
            assert torch.equal(seen.scores, exact.scores)
            for rows in (list(range(count)), [count - 1, 0]):
                one_class = torch.eye(CLASSES)[[row % CLASSES for row in rows]]
                for weights in (one_class, torch.randn(len(rows), CLASSES)):
                    targets = Objectives.weighing(rows, weights)
                    expected = exact.gradients(targets)
                    assert torch.allclose(seen.gradients(targets), expected, rtol=1e-5, atol=1e-7)
                    assert torch.allclose(seen.mean_gradients(targets), expected.mean(dim=(2, 3)), rtol=1e-5, atol=1e-7)
            recorded = look(small, pictures(count), tape=True)
            assert torch.allclose(seen.rescore(-seen.activations), recorded.rescore(-seen.activations), atol=1e-6)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", HIDDEN)
def test_a_hidden_layer_answers_why_one_class_and_not_another(name: str) -> None:
    small = HIDDEN[name]()
    exact = look(small, pictures(2))
    with Capture(small.network, (small.layer,), closed(small)) as capture:
        (seen,) = capture.forward(pictures(2))
    # A contrast, a class beside it without one, and a class against itself.
    asked = Objectives(
        [1, 0, 1], torch.tensor([[1, 3], [2, 0], [4, 4]]), torch.tensor([[1.0, -1], [-1, 0], [1, -1]]), CLASSES
    )
    assert torch.allclose(seen.gradients(asked), exact.gradients(asked), rtol=1e-5, atol=1e-7)
    assert torch.allclose(seen.targeted(asked), exact.targeted(asked))
    assert seen.mean_gradients(asked) is seen.mean_gradients(asked)  # methods share it


def test_a_hidden_layer_is_kept_in_the_form_in_which_it_is_served() -> None:
    small = hidden(nn.Hardswish(inplace=True), width=600)
    network = ScoringNetwork(small.network).requires_grad_(False)
    heads = {small.layer.name: find_head(network, small.layer, (SIDE, SIDE))}
    targets = Objectives.weighing(range(3), torch.eye(CLASSES)[:3])
    exact = look(small, pictures(3)).mean_gradients(targets)
    for precision, tolerance in (("fp32", 1e-5), ("bf16", 0.03)):
        served = copy.deepcopy(network)
        prepare(served, RuntimeSpec(precision=precision), (small.layer,), (SIDE, SIDE))
        with Capture(served, (small.layer,), heads) as capture:
            (seen,) = capture.forward(pictures(3).to(next(served.parameters()).dtype))
        found = seen.mean_gradients(targets)
        assert found.dtype == torch.float32
        assert float((found - exact).abs().max()) <= tolerance * float(exact.abs().max())


def test_a_layer_with_a_hidden_head_and_one_without_share_a_pass() -> None:
    small = hidden(nn.ReLU(inplace=True))
    targets = Objectives.weighing([0], torch.eye(CLASSES)[[2]])
    layers = (Layer("0.0"), small.layer)
    with Capture(small.network, layers, closed(small)) as capture:
        both = capture.forward(pictures(1), tape=True)
    for seen, layer in zip(both, layers):
        alone = look(Small(small.network, layer), pictures(1), tape=True)
        assert torch.allclose(seen.gradients(targets), alone.gradients(targets), atol=1e-7)
        assert torch.allclose(seen.rescore(-seen.activations), alone.rescore(-seen.activations), atol=1e-6)


def test_a_hidden_layer_that_the_network_lacks_is_named() -> None:
    small = HIDDEN["ReLU"]()
    (head,) = closed(small).values()
    elsewhere = replace(head, hidden=replace(head.hidden, module="nowhere"))
    with pytest.raises(ConfigError, match="no module named 'nowhere'"):
        Capture(small.network, (small.layer,), {small.layer.name: elsewhere})


class InParts(nn.Module):
    """A classifier that passes two pictures at a time through its head."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, CLASSES))

    def forward(self, pooled: Tensor) -> Tensor:
        return torch.cat([self.head(part) for part in pooled.split(2)])


def test_a_hidden_layer_may_get_a_batch_in_parts() -> None:
    small = tailed(*POOL, InParts())
    targets = Objectives.weighing(range(5), torch.eye(CLASSES))
    with Capture(small.network, (small.layer,), closed(small)) as capture:
        (seen,) = capture.forward(pictures(5))
    exact = look(small, pictures(5)).gradients(targets)
    assert torch.allclose(seen.gradients(targets), exact, rtol=1e-5, atol=1e-7)


def test_a_hidden_layer_that_runs_twice_is_no_closed_form() -> None:
    small = tailed(*POOL, Bow())
    with Capture(small.network, (small.layer,), closed(small)) as capture:
        capture.forward(pictures(1))
        small.network[3].twice = True
        with pytest.raises(ConfigError, match=r"module '3.first' gave 2 rows for 1 pictures"):
            capture.forward(pictures(1))


class Wipes(nn.Module):
    """A tail that writes over the activation when it has been read."""

    def forward(self, features: Tensor) -> Tensor:
        pooled = features.mean(dim=(2, 3))
        features.mul_(0)
        return pooled


@pytest.mark.parametrize(("tail", "intact"), [(POOL, True), ((Wipes(),), False)])
def test_an_activation_is_copied_where_the_tail_writes_into_it(tail: tuple[nn.Module, ...], intact: bool) -> None:
    small = tailed(*tail, LINEAR)
    head = find_head(small.network, small.layer, (SIDE, SIDE))
    assert head is not None
    assert head.intact is intact
    with Capture(small.network, (small.layer,), {small.layer.name: head}) as capture:
        (seen,) = capture.forward(pictures(2))
    assert torch.equal(seen.activations, small.network[0](pictures(2)))


@pytest.mark.parametrize("name", NO_HEADS)
def test_anything_else_is_not_taken_for_a_head(name: str) -> None:
    small = NO_HEADS[name]()
    assert find_head(small.network, small.layer, (SIDE, SIDE)) is None


def test_a_decoy_of_the_right_shape_is_not_taken_for_the_weight() -> None:
    small = HEADS["pooling, linear"]()
    small.network.register_parameter("decoy", nn.Parameter(torch.randn(CLASSES, 6)))
    head = find_head(small.network, small.layer, (SIDE, SIDE))
    assert head is not None
    assert torch.equal(head.weight, small.network[3].weight)
