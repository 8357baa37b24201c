"""Attention in windows is traced on the grid, wherever a network cuts, shifts, pads and merges."""

import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torchvision.models import swin_transformer

from camserve.attribution.attention_record import is_square
from camserve.attribution.capture import Capture
from camserve.attribution.methods import METHODS
from camserve.attribution.windows import _known, find_windows
from camserve.errors import ConfigError
from camserve.explainer import Explainer
from camserve.serving.warm_up import warm_up
from camserve.values import Layer
from model_file import quiet
from small_networks import CLASSES, distance, objectives_for, settle

WINDOW = 4
NAMES = [f"class {number}" for number in range(CLASSES)]


def swin(version):
    parts = {"v1": (swin_transformer.SwinTransformerBlock, swin_transformer.PatchMerging)}
    parts["v2"] = (swin_transformer.SwinTransformerBlockV2, swin_transformer.PatchMergingV2)
    block, merging = parts[version]
    return settle(
        swin_transformer.SwinTransformer(
            [4, 4], 16, [2, 2], [2, 2], [WINDOW] * 2, num_classes=CLASSES, block=block, downsample_layer=merging
        )
    )


def timms(fused):
    network = timm.models.SwinTransformer(
        img_size=64, patch_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 2), window_size=WINDOW, num_classes=5
    )
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    return settle(network)


class Keep(TorchFunctionMode):
    """Keep every attention of a forward pass, with its gradient."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func.__name__ == "softmax" and is_square(output):
            output.retain_grad()
            self.found.append(output)
        return output


def shift_of(side, block):
    """Swin's second block shifts by half a window, unless one window holds the whole side."""
    padded = -(-side // WINDOW) * WINDOW
    return WINDOW // 2 if block % 2 and padded > WINDOW else 0


def whole_matrix(weighted, grid, block):
    """The positions' attention (P, P) to one another, from that of windows (W, L, L), by Swin's own definition."""
    (height, width), (down, across) = grid, (shift_of(side, block) for side in grid)
    rows, columns = -(-height // WINDOW) * WINDOW, -(-width // WINDOW) * WINDOW
    matrix = torch.zeros(height * width, height * width)
    for number, window in enumerate(weighted):
        top, left = divmod(number, columns // WINDOW)
        places = []
        for token in range(WINDOW * WINDOW):
            y = (top * WINDOW + token // WINDOW + down) % rows
            x = (left * WINDOW + token % WINDOW + across) % columns
            places.append(y * width + x if y < height and x < width else None)
        inside = [token for token, place in enumerate(places) if place is not None]
        at = torch.tensor([places[token] for token in inside])
        matrix[at[:, None], at] = window[inside][:, inside]  # a pair of places shares one window
    return matrix


def by_definition(network, pixels, row, index, grids, read):
    """The relevance of the positions of the first of ``grids``, from whole matrices and a network that keeps them."""
    with Keep() as kept:
        scores = network(pixels[row : row + 1])
    scores[0, index].backward()
    attention = kept.found[-len(grids) :]
    grid = grids[-1]
    relevance = start = torch.full((grid[0] * grid[1],), 1 / (grid[0] * grid[1]))
    for number in reversed(range(len(grids))):
        if grids[number] != grid:  # two rows and two columns were merged
            relevance, start = (spread(values, grid, grids[number]) for values in (relevance, start))
            grid = grids[number]
        weighted = (attention[number].grad * attention[number]).clamp(min=0).mean(dim=1).detach()
        relevance = relevance + relevance @ whole_matrix(weighted, grid, number + read)
    return (relevance - start).reshape(grid)


def spread(values, grid, finer):
    fine = values.reshape(grid).repeat_interleave(2, 0).repeat_interleave(2, 1)[: finer[0], : finer[1]]
    ones = torch.ones(finer)
    merged = functional.avg_pool2d(ones[None, None], 2, ceil_mode=True, divisor_override=1)[0, 0]
    return (fine / merged.repeat_interleave(2, 0).repeat_interleave(2, 1)[: finer[0], : finer[1]]).flatten()


def watched(network, layer, pixels):
    with Capture(network, (layer,)) as capture:
        (output,) = capture.forward(pixels)
    return output


KINDS = {
    "torchvision": lambda: swin("v1"),
    "torchvision v2": lambda: swin("v2"),
    "timm": lambda: timms(False),
    "timm fused": lambda: timms(True),
}
SIZES = [*((kind, (64, 64)) for kind in KINDS), ("torchvision", (56, 40)), ("torchvision v2", (56, 40))]


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize(("kind", "size"), SIZES)
def test_it_is_the_papers_on_the_grid_whatever_windows_a_network_cuts(kind, first, size):
    fine = (size[0] // 4, size[1] // 4)
    coarse = (-(-fine[0] // 2), -(-fine[1] // 2))
    grids = [fine, fine, coarse, coarse][first:]
    ours = ["features.0", "features.1.0", "features.2"][first]
    name = ours if "torchvision" in kind else ["patch_embed", "layers.0.blocks.0", "layers.1.downsample"][first]
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    output = watched(KINDS[kind](), Layer(name, "NHWC", 0, grids[0]), pixels)
    pairs = ((0, 2), (1, 0), (0, 4))
    found = METHODS["attention"].run(output, objectives_for(*pairs))
    plain = KINDS["timm" if kind == "timm fused" else kind]()
    expected = torch.stack([by_definition(plain, pixels, row, index, grids, first) for row, index in pairs])
    assert expected.std() > 0
    assert distance(found, expected) < 1e-4


def test_it_is_the_same_as_served(explainer):
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    picture = (pixels[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
    answer = explainer(Image.fromarray(picture), target="class 2", method="attention")
    shown = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    expected = by_definition(swin("v1"), shown, 0, 2, [(16, 16)] * 2 + [(8, 8)] * 2, 0)
    explanation = answer.explanations[0]
    assert distance(torch.tensor(explanation.grid) * explanation.scale, expected) < 1e-3


@pytest.fixture(scope="module")
def explainer():
    plain = {"resize": 64, "crop": 64, "mean": [0, 0, 0], "std": [1, 1, 1]}
    return Explainer(swin("v1"), NAMES, plain, layer="features.0", methods=["gradcam", "attention"], report=quiet)


class Mixing(nn.Module):
    """Windows whose tokens a convolution mixes before the second attention."""

    def __init__(self):
        super().__init__()
        self.start = nn.Conv2d(3, 8, 8, 8)
        self.convolution = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)

    def attend(self, values):
        count, channels, height, width = values.shape
        windows = values.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 3, 5, 1)
        tokens = windows.reshape(-1, 4, channels)
        mixed = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        back = mixed.reshape(count, height // 2, width // 2, 2, 2, channels)
        return values + back.permute(0, 5, 1, 3, 2, 4).reshape(values.shape)

    def forward(self, pixels):
        values = self.attend(self.start(pixels))
        return self.head(self.attend(self.convolution(values)).mean(dim=(2, 3)))


def test_windows_that_cannot_be_placed_are_refused():
    output = watched(settle(Mixing()), Layer("start", "NCHW", 0, (4, 4)), torch.randn(1, 3, 32, 32))
    for _ in range(2):
        with pytest.raises(ConfigError, match="cannot place windows on the grid of 'start': something beside attent"):
            METHODS["attention"].run(output, objectives_for((0, 1)))


def test_windows_are_looked_for_once():
    output = watched(swin("v1"), Layer("features.0", "NHWC", 0, (16, 16)), torch.randn(1, 3, 64, 64))
    assert find_windows(output) is find_windows(output)


def test_what_is_kept_of_windows_grows_with_the_grid_and_not_with_its_square():
    output = watched(swin("v1"), Layer("features.0", "NHWC", 0, (32, 32)), torch.randn(1, 3, 128, 128))
    positions = 32 * 32
    for windows in find_windows(output):
        kept = [value for value in vars(windows).values() if isinstance(value, torch.Tensor)]
        assert sum(value.numel() for value in kept) <= 2 * positions


def test_windows_are_found_before_the_first_request(explainer):
    pipeline = explainer._pipeline
    _known.clear()
    warm_up(pipeline, 1)
    assert pipeline.network in _known
