"""The operators after a layer, recorded once and run again on other activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from architectures import convnext, densenet, efficientnet, resnet, shufflenet, swin, vgg
from camserve.attribution.grid import off_grid, on_grid
from camserve.errors import ConfigError
from camserve.network.hooks import calls_of
from camserve.values import Layer
from small_networks import CLASSES, Small, deep, distance, every_device, pictures, settle, tokens, watch

# Tails of every kind: in-place edits, skip connections from before the layer, views, attention, shifted windows.
TAILS: Mapping[str, Callable[[], Small]] = {
    "resnet end": lambda: Small(resnet(), Layer("layer4")),
    "resnet branch": lambda: Small(resnet(), Layer("layer4.1.conv1")),
    "resnet skip": lambda: Small(resnet(), Layer("layer4.0.downsample")),
    "densenet end": lambda: Small(densenet(), Layer("features")),
    "densenet middle": lambda: Small(densenet(), Layer("features.denseblock2.denselayer1")),
    "vgg": lambda: Small(vgg(), Layer("features.7")),
    "efficientnet": lambda: Small(efficientnet(), Layer("features.1")),
    "shufflenet": lambda: Small(shufflenet(), Layer("stage3")),
    "convnext": lambda: Small(convnext(), Layer("features.1")),
    "swin": lambda: Small(swin(), Layer("features.1", "NHWC")),
    "vit": tokens,
    "batch normalisation, in place": deep,
}
EDITS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "turned over": lambda activations: activations * -2,
    "nothing": torch.zeros_like,
    "moved": lambda activations: activations.flip(1, 2) + 1,
}


def edited(small: Small, pixels: Tensor, edit: Callable[[Tensor], Tensor]) -> Tensor:
    """The scores when the layer's output is edited on its way, by running the whole network."""
    layer = small.layer

    def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
        return off_grid(edit(on_grid(output, layer)), layer, output)

    with small.network.get_submodule(layer.name).register_forward_hook(hook), torch.no_grad():
        return small.network(pixels)


@every_device
def test_the_tail_alone_gives_the_scores_of_the_whole_network(device: str, subtests: pytest.Subtests) -> None:
    for name, build in TAILS.items():
        with subtests.test(name):
            small, pixels = build(), pictures(2).to(device)
            small.network.to(device)
            output = watch(small, pixels, tape=True)
            with torch.no_grad():
                plain = small.network(pixels)
            # Attention takes another path where nobody asks for gradients.
            assert torch.allclose(output.scores, plain, atol=1e-6)
            assert torch.equal(output.rescore(output.activations), output.scores)
            for title, edit in EDITS.items():
                rescored, expected = output.rescore(edit(output.activations)), edited(small, pixels, edit)
                assert distance(rescored, expected) < 1e-5, title
                assert name == "vit" or not torch.equal(rescored, plain), title
            assert torch.equal(output.rescore(output.activations), output.scores)  # no run of it leaves a trace
            small.network.cpu()


def test_the_tail_runs_again_without_the_trunk(subtests: pytest.Subtests) -> None:
    for name, build in TAILS.items():
        with subtests.test(name):
            small = build()
            output = watch(small, pictures(1), tape=True)
            with calls_of(dict(small.network.named_modules())) as calls:
                output.rescore(output.activations)
            assert calls == []


class WithTail(nn.Module):
    """A network made of its layer and any function as its tail."""

    def __init__(self, tail: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, CLASSES, 4, stride=4)
        self.tail = tail

    def forward(self, pixels: Tensor) -> Tensor:
        before = pixels.mean(dim=(2, 3), keepdim=True).expand(-1, -1, 8, 8).contiguous()
        return self.tail(self.layer(pixels), before)


def written_into_what_came_before(activations: Tensor, before: Tensor) -> Tensor:
    used = before * activations[:, :3]
    before += used
    return torch.cat([before, used], dim=1)[:, :CLASSES].mean(dim=(2, 3))


def read_before_it_is_overwritten(activations: Tensor, before: Tensor) -> Tensor:
    first = activations[:, :3] * before
    before.zero_()
    return torch.cat([first, activations[:, 3:] + before[:, :2]], dim=1).mean(dim=(2, 3))


def gathered_in_a_buffer(activations: Tensor, before: Tensor) -> Tensor:
    buffer = torch.zeros_like(activations)
    view = buffer.view(len(activations), CLASSES, -1)
    buffer[:, 1:] = activations[:, :-1]
    buffer[:, 0] = before[:, 0]
    return (view**2).mean(dim=2)


def edited_in_place(activations: Tensor, before: Tensor) -> Tensor:
    half = activations[:, ::2]
    half.relu_().mul_(3)
    activations[:, 1] = 1.0
    return activations.sub_(before[:, :1]).mean(dim=(2, 3))


def split_and_joined(activations: Tensor, _: Tensor) -> Tensor:
    one, *others = activations.permute(0, 2, 3, 1).chunk(CLASSES, dim=-1)
    return torch.stack([part.flatten(1).amax(dim=1) for part in (*others, one)], dim=1)


IN_PLACE = (
    written_into_what_came_before,
    read_before_it_is_overwritten,
    gathered_in_a_buffer,
    edited_in_place,
    split_and_joined,
)


def test_the_tail_may_work_in_place(subtests: pytest.Subtests) -> None:
    for tail in IN_PLACE:
        with subtests.test(tail.__name__):
            small, pixels = Small(settle(WithTail(tail)), Layer("layer")), pictures(2)
            output = watch(small, pixels, tape=True)
            with torch.no_grad():
                assert torch.equal(output.rescore(output.activations), small.network(pixels))
            for edit in (torch.neg, torch.zeros_like):
                assert torch.allclose(output.rescore(edit(output.activations)), edited(small, pixels, edit))


NOT_REPLAYABLE: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "decides by the values": lambda activations, _: activations.mean(dim=(2, 3)) * (2 if activations.sum() > 0 else 3),
    "depends on the values": lambda activations, _: (
        activations[activations > 0].mean() * torch.ones(len(activations), CLASSES)
    ),
    "do not depend on this layer": lambda _, before: before[:, 0, 0, :CLASSES],
}


def test_a_tail_that_cannot_be_run_again_is_refused(subtests: pytest.Subtests) -> None:
    for reason, tail in NOT_REPLAYABLE.items():
        with subtests.test(reason):
            output = watch(Small(settle(WithTail(tail)), Layer("layer")), pictures(1), tape=True)
            with pytest.raises(ConfigError, match=f"the tail after 'layer' cannot be run again.*{reason}"):
                output.rescore(-output.activations)


def test_the_tail_must_have_been_recorded() -> None:
    output = watch(deep(), pictures(1))
    with pytest.raises(ConfigError, match=r"was not recorded: Capture.forward\(pixels, tape=True\)"):
        output.rescore(output.activations)
