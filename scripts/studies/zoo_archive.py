"""One classifier through its archive: built, loaded, asked, and compared with one uncut autograd graph.

Networks get random weights. A served map is right if it agrees with Grad-CAM computed the plain way on the network as
its library makes it.
"""

from __future__ import annotations

import gc
import json
import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from camserve.bench.networks import settle_statistics, wake
from camserve.build.archive import build_archive
from camserve.build.locate import find_file
from camserve.build.mar.unpack import open_archive
from camserve.build.recipe import OutputChoice, Recipe
from camserve.input_spec import InputSpec
from camserve.intake.accept import read_pixels
from camserve.intake.preprocess import normalise
from camserve.network.factory import build_network
from camserve.network.output import ScoringNetwork
from camserve.settings import Limits, ModelSpec, Settings
from camserve.values import InputShape, Layer, RawRequest
from zoo_models import Entry, Source

MAP_TOLERANCE = 1e-4  # of the map's largest value, in float32; what an answer's four digits lose comes on top
DIGITS = 1e-4
CHANNELS = 3
USUAL_SIDE = 224  # pixels, where a model does not say
SMALLER = (384, 336)  # tried where a model's own pictures are larger; attention's memory grows with its fourth power
PHOTO = "package://skimage/data/coffee.png"


@dataclass(frozen=True)
class ZooRow:
    """The result of one classifier."""

    name: str
    shape: InputShape = (0, 0, 0)  # of its input
    layers: tuple[Layer, ...] = ()
    share: float = 0.0  # of the scores' variance that passes the layers
    agreement: float = math.inf  # largest difference to the plain computation, relative to the map's maximum
    seconds: float = 0.0  # that building the archive took
    reason: str = ""  # why it could not be built, or what failed
    built: bool = True

    @property
    def passed(self) -> bool:
        """Whether the archive was built and its map is right."""
        return bool(self.layers) and self.agreement <= MAP_TOLERANCE + DIGITS


def try_out(entry: Entry, most: float) -> ZooRow:
    """Serve one classifier of at most so many parameters and compare its map; a failure becomes the row's reason."""
    torch.manual_seed(0)
    try:
        source = entry.choose()
        network = build_network(ModelSpec(source.factory, source.args), Path())
    except Exception as error:
        return ZooRow(entry.name, reason=_word(error), built=False)
    count = sum(parameter.numel() for parameter in network.parameters())
    if count > most:
        return ZooRow(source.name, reason=f"left out, {count / 1e6:.0f} M parameters", built=False)
    try:
        shape = _input_shape(network.eval())
        try:
            # Without statistics of its own, a deep random network gives the same scores for every picture, or
            # amplifies rounding a thousand times.
            settle_statistics(wake(network), _pictures(shape))
        except Exception as error:
            return ZooRow(
                source.name, reason=f"takes no pictures of shape {('N', *shape)}: {_word(error)}", built=False
            )
        with tempfile.TemporaryDirectory(prefix="camserve-zoo-") as folder:
            return _serve(source, network, shape, Path(folder))
    except Exception as error:
        return ZooRow(source.name, reason=_word(error))
    finally:
        del network
        gc.collect()


def _serve(source: Source, network: nn.Module, shape: InputShape, folder: Path) -> ZooRow:
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / "weights.safetensors")
    del tensors
    recipe = Recipe(
        "zoo",
        str(folder / "weights.safetensors"),
        source.factory,
        args=dict(source.args),
        preprocess=InputSpec(resize=shape[1:], crop=None),
        output=OutputChoice(source.select, "none"),  # random scores may all lie between 0 and 1
        samples=(PHOTO,),
        methods=("gradcam",),
    )
    start = time.perf_counter()
    archive = build_archive(recipe, folder, lambda _line: None, fresh_process=False)
    seconds = time.perf_counter() - start
    photo = find_file(PHOTO).read_bytes()
    with open_archive(archive) as pipeline:
        settings = pipeline.settings
        (response,) = pipeline.answer([RawRequest(photo, {"explain": True, "method": "gradcam", "evidence": "signed"})])
    (explanation,) = json.loads(response.body)["explanations"]
    served = np.array(explanation["grid"]) * explanation["scale"]
    index = explanation["target"]["index"]
    agreement = _compare(served, network, settings, photo, index)
    if agreement > MAP_TOLERANCE + DIGITS:
        # Random weights may amplify rounding a thousand times, in the plain graph as in the served one.
        agreement = _compare(served, network.double(), settings, photo, index)
    layers, source_of = tuple(_read(settings)), settings.map_source()
    return ZooRow(source.name, shape, layers, source_of.share, agreement, seconds)


def _compare(served: np.ndarray, network: nn.Module, settings: Settings, photo: bytes, index: int) -> float:
    """Return the largest difference of a served map to the plain one, of this one's maximum."""
    expected = sum(_plain_map(network, layer, settings, photo, index) for layer in _read(settings))
    return float(np.abs(served - expected).max() / np.abs(expected).max())


def _read(settings: Settings) -> list[Layer]:
    names = settings.map_source().layers
    return [layer for layer in settings.layers if layer.name in names]


def _pictures(shape: InputShape) -> Tensor:
    """Return two pictures of noise, and the photo upright and mirrored."""
    spec = InputSpec(resize=shape[1:], crop=None)
    pixels = read_pixels(find_file(PHOTO).read_bytes(), spec, Limits())
    photo = normalise([pixels], spec, torch.device("cpu"))
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2))
    return torch.cat([noise, photo, photo.flip(3)])


def _plain_map(network: nn.Module, layer: Layer, settings: Settings, photo: bytes, index: int) -> np.ndarray:
    # Twice: torch 2.14.1's batch normalisation on a CPU gives a single picture wrong gradients in CvT.
    rows = [read_pixels(photo, settings.input, Limits())] * 2
    pixels = normalise(rows, settings.input, torch.device("cpu")).contiguous()
    scoring = ScoringNetwork(network, *settings.outputs)
    pixels = pixels.to(next(network.parameters()).dtype)
    return plain_gradcam(scoring, layer, pixels, torch.tensor([index, index]))[0].detach().numpy()


def plain_gradcam(network: nn.Module, layer: Layer, pixels: Tensor, classes: Tensor) -> Tensor:
    """Return Grad-CAM before its ReLU, (N, h, w), of one class a row, from one graph through the whole network."""
    outputs: list[tuple[Tensor, GradientEdge]] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        tensor = output if isinstance(output, Tensor) else output[0]
        # Its value and its place in the graph now: the next module may edit it in place.
        outputs.append((tensor.detach().clone(), get_gradient_edge(tensor)))

    handle = network.get_submodule(layer.name).register_forward_hook(keep)
    try:
        scores = network(pixels.clone().requires_grad_())
    finally:
        handle.remove()
    activation, edge = outputs[layer.call]
    (gradient,) = torch.autograd.grad(scores.gather(1, classes[:, None]).sum(), edge)
    channels = {"NCHW": 1, "NHWC": 3, "NLC": 2}[layer.layout]
    weighted = activation.movedim(channels, 1).flatten(2), gradient.movedim(channels, 1).flatten(2)
    values, slopes = (tensor[:, :, layer.prefix :] for tensor in weighted)
    plain: Tensor = torch.einsum("nkp,nk->np", values, slopes.mean(dim=2))
    return plain.reshape(len(plain), *layer.grid)


def _input_shape(network: nn.Module) -> InputShape:
    config: Any = getattr(network, "config", None)
    side: Any = getattr(config, "image_size", None) or getattr(network, "image_size", None)
    described = getattr(network, "pretrained_cfg", None)
    if isinstance(described, Mapping):
        side = described["input_size"][1:]
    if type(network).__name__ == "Inception3":
        side = 299
    rows, columns = side if isinstance(side, (tuple, list)) else (side or USUAL_SIDE,) * 2
    if max(rows, columns) > SMALLER[0]:
        rows, columns = next(((side, side) for side in SMALLER if _takes(network, side)), (rows, columns))
    return CHANNELS, int(rows), int(columns)


@torch.no_grad()
def _takes(network: nn.Module, side: int) -> bool:
    try:
        network.eval()(torch.zeros(1, CHANNELS, side, side))
    except Exception:
        return False
    return True


def _word(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
