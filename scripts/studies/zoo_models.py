"""Every classifier of torchvision, timm and transformers: is its target layer found, and is its map right?

Networks get random weights. A map is right if it agrees with Grad-CAM computed the plain way, with
one autograd graph through the whole network and nothing cut.
"""

from __future__ import annotations

import functools
import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from camserve.attribution.capture import Capture, Tail
from camserve.attribution.find_head import find_linear_head
from camserve.attribution.methods.gradcam import gradcam
from camserve.attribution.objectives import Objectives
from camserve.bench.networks import settle_statistics, wake
from camserve.build.output import find_meaning
from camserve.build.probe import find_layer
from camserve.build.recipe import OutputChoice
from camserve.errors import ConfigError
from camserve.fast.closed_form import find_closed_form
from camserve.network.output import ScoringNetwork
from camserve.values import InputShape, Layer

MAP_TOLERANCE = 1e-4  # of the map's largest value, in float32
CHANNELS = 3
USUAL_SIDE = 224  # pixels, where a model does not say
SMALLER = (384, 336)  # tried where a model's own pictures are larger; attention's memory grows with its fourth power
MANY_PARAMETERS = 200e6  # parameters from which one picture must do
TOO_MANY_PARAMETERS = 1e9  # parameters from which none is built
BEST_CLASSES = 2  # the best ones of each picture, whose maps are compared


@dataclass(frozen=True)
class Entry:
    """One classifier, or one of a module's where that registers several."""

    name: str
    build: Callable[[], tuple[str, nn.Module]]  # its full name, and the network


@dataclass(frozen=True)
class ZooRow:
    """The result of one classifier."""

    name: str
    shape: InputShape = (0, 0, 0)  # of its input
    layer: Layer | None = None
    agreement: float = math.inf  # largest difference to the plain computation, relative to the map's maximum
    seconds: float = 0.0  # that finding the layer took
    reason: str = ""  # why it could not be built, or what failed
    built: bool = True

    @property
    def passed(self) -> bool:
        """Whether a layer was found and its map is right."""
        return self.layer is not None and self.agreement <= MAP_TOLERANCE


def try_out(entry: Entry) -> ZooRow:
    """Build one classifier, find its layer and compare its map; whatever fails becomes the row's reason."""
    torch.manual_seed(0)
    try:
        name, network = entry.build()
    except Exception as error:
        return ZooRow(entry.name, reason=_word(error), built=False)
    try:
        return _measure(name, network)
    except Exception as error:
        return ZooRow(name, reason=_word(error))
    finally:
        del network
        gc.collect()


def _measure(name: str, network: nn.Module) -> ZooRow:
    shape = _input_shape(network)
    noise = torch.randn(4, *shape, generator=torch.Generator().manual_seed(2))
    try:
        # Without statistics of its own, a deep random network gives the same scores for every picture.
        settle_statistics(wake(network).eval(), noise)
    except Exception as error:
        return ZooRow(
            name, reason=f"takes no pictures of shape (N, {', '.join(map(str, shape))}): {_word(error)}", built=False
        )
    meaning = find_meaning(network, noise, OutputChoice(), None, None, lambda _line: None)
    scores = ScoringNetwork(network, meaning.output).eval()
    start = time.perf_counter()
    layer = find_layer(scores, shape)
    seconds = time.perf_counter() - start
    rows = 1 if sum(parameter.numel() for parameter in network.parameters()) > MANY_PARAMETERS else 2
    pixels = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(1))
    head = find_linear_head(scores, layer, shape)
    tail = Tail(head, find_closed_form(scores, layer, shape, head))
    return ZooRow(name, shape, layer, _disagreement(scores, layer, tail, pixels), seconds)


def _disagreement(network: nn.Module, layer: Layer, tail: Tail, pixels: Tensor) -> float:
    with Capture(network, (layer,), {layer.name: tail}) as capture:
        (output,) = capture.forward(pixels)
        objectives = Objectives.of_top_classes(output.scores, min(BEST_CLASSES, output.scores.shape[1]))
        ours = gradcam(output, objectives)
    best = objectives.classes.view(len(pixels), -1)  # (N, classes)
    plain = torch.stack([plain_gradcam(network, layer, pixels, classes) for classes in best.T], dim=1).flatten(0, 1)
    return float((ours - plain).abs().max() / plain.abs().max())


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


def torchvision_entries() -> Iterator[Entry]:
    """Name all of torchvision's classifiers."""
    from torchvision import models

    for name in models.list_models(module=models):
        yield Entry(name, functools.partial(_build, models.get_model, name))


def timm_entries() -> Iterator[Entry]:
    """Name each of timm's modules; its smallest classifier stands for it."""
    import timm

    for module in timm.models.list_modules():
        yield Entry(module, functools.partial(_build_smallest, module))


def transformers_entries() -> Iterator[Entry]:
    """Name every image classifier of transformers, as its default configuration describes it."""
    from transformers import AutoModelForImageClassification

    for config, classifiers in AutoModelForImageClassification._model_mapping.items():
        yield Entry(config.__name__, functools.partial(_build_configured, config, classifiers))


def _build(factory: Callable[[str], nn.Module], name: str) -> tuple[str, nn.Module]:
    return name, factory(name)


def _build_smallest(module: str) -> tuple[str, nn.Module]:
    import timm

    names = timm.list_models(module=module)
    # timm keeps toys for its own tests beside the real ones.
    names = [name for name in names if not name.startswith("test_")] or names
    if not names:
        raise ConfigError(f"timm.models.{module} registers no model")
    smallest = min(names, key=lambda name: _parameters(functools.partial(timm.create_model, name)))
    return f"{module}: {smallest}", timm.create_model(smallest)


def _build_configured(config: Callable[[], Any], classifiers: Any) -> tuple[str, nn.Module]:
    classifier = classifiers[0] if isinstance(classifiers, tuple) else classifiers
    count = _parameters(lambda: classifier(config()))
    if TOO_MANY_PARAMETERS < count < math.inf:
        raise ConfigError(f"{count / 1e9:.1f} G parameters in its default configuration")
    return classifier.__name__, classifier(config())


def _parameters(build: Callable[[], nn.Module]) -> float:
    """Count a network's parameters without making them; infinite where it cannot be built that way."""
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in build().parameters())
    except Exception:
        return math.inf


MODEL_FAMILIES: Mapping[str, Callable[[], Iterator[Entry]]] = {
    "torchvision": torchvision_entries,
    "timm": timm_entries,
    "hf": transformers_entries,
}
