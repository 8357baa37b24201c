"""The search for the last output that carries evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from camserve.capture import on_grid
from camserve.errors import ConfigError
from camserve.probe.axes import lay_out
from camserve.probe.graph import Graph, back_over_pooling
from camserve.probe.watch import Output, watch, watch_shapes
from camserve.values import Layer

TOGETHER = 16  # outputs whose gradients one backward pass gives

NO_GRADIENT = "the scores' gradient reaches none of its positions"
ATTENDED = "it is a projection that attention takes apart (queries, keys, values), not a feature map"
SCORE_MAPS = "its channels are the classes' own score maps, not features"


@dataclass(frozen=True)
class Refusal:
    """One call of one module that is not the target layer, and why."""

    name: str
    call: int
    reason: str


@dataclass(frozen=True)
class Finding:
    """The target layer, and the later outputs that were passed over, the last first."""

    layer: Layer
    refused: tuple[Refusal, ...]


@dataclass(frozen=True)
class _Judged:
    """One output with its verdict: where its positions lie, or why it carries no evidence."""

    output: Output
    layer: Layer | None
    reason: str = ""


class Search:
    """One network, run on two random pictures, and on one of twice the height where it takes that."""

    def __init__(self, network: nn.Module, size: tuple[int, int], seed: int) -> None:
        """Run the network; it comes back as it was. ConfigError: it fails on pictures of ``size``."""
        generator = torch.Generator().manual_seed(seed)
        device = next((each.device for each in network.parameters()), torch.device("cpu"))
        pixels = torch.randn(2, 3, *size, generator=generator).to(device)
        taller = torch.randn(1, 3, 2 * size[0], size[1], generator=generator).to(device)
        self._size = size
        self._taller = watch_shapes(network, taller)
        self._outputs, self._scores = watch(network, pixels)
        # A random weighting of the scores: no class is asked for, and none is left out.
        self._weights = torch.randn(self._scores.shape, generator=generator).to(self._scores)
        self._graph = Graph(self._scores)

    def find(self) -> Finding:
        """Return the last output that carries evidence, before pooling. ConfigError: there is none."""
        refused: list[Refusal] = []
        best: _Judged | None = None
        for judged in self._judge(self._outputs[::-1]):
            reason = judged.reason or self._not_features(judged.output)
            if not reason:
                best = judged
                break
            refused.append(Refusal(judged.output.name, judged.output.call, reason))
            best = best or (judged if judged.layer else None)
        if best is None:
            if torch.equal(*self._scores):
                raise ConfigError("the scores of two random pictures are equal: are the weights loaded?")
            raise ConfigError("no module of the network has an output whose positions the scores' gradient reaches")
        return Finding(self._settle(best), tuple(refused))

    def check(self, name: str) -> tuple[Layer | None, str]:
        """Return the last call of the named module that carries evidence, else why its last call does not."""
        judged = list(self._judge([each for each in self._outputs[::-1] if each.name == name]))
        if not judged:
            return None, "it does not run in a forward pass"
        return next((each.layer for each in judged if each.layer), None), judged[0].reason

    def _judge(self, outputs: Sequence[Output]) -> Iterator[_Judged]:
        for start in range(0, len(outputs), TOGETHER):
            part = outputs[start : start + TOGETHER]
            layers = [self._layer(each) for each in part]
            wanted = [each for each, layer in zip(part, layers) if isinstance(layer, Layer)]
            gradients = dict(zip(map(id, wanted), self._gradients(wanted, self._weights)))
            for output, layer in zip(part, layers):
                if isinstance(layer, str):
                    yield _Judged(output, None, layer)
                elif not _reaches(gradients[id(output)], layer):
                    yield _Judged(output, None, NO_GRADIENT)
                else:
                    yield _Judged(output, layer)

    def _layer(self, output: Output) -> Layer | str:
        if output.shape is None:
            return f"its output is a {output.kind}, not a tensor"
        if output.shape[:1] != (len(self._scores),):
            return "its output does not have one entry a picture"
        return lay_out(output.name, output.call, output.shape, self._taller.get((output.name, output.call)), self._size)

    def _gradients(self, outputs: Sequence[Output], weights: Tensor) -> Sequence[Tensor | None]:
        edges = [each.edge for each in outputs if each.edge is not None]
        if not edges or not self._scores.requires_grad:
            return [None] * len(outputs)
        found = iter(torch.autograd.grad((weights * self._scores).sum(), edges, retain_graph=True, allow_unused=True))
        return [None if each.edge is None else next(found) for each in outputs]

    def _not_features(self, output: Output) -> str:
        """Say why an output that carries evidence is still not one to draw maps from."""
        assert output.edge is not None
        if self._graph.feeds_attention(output.edge.node):
            return ATTENDED
        return SCORE_MAPS if self._is_score_maps(output) else ""

    def _is_score_maps(self, output: Output) -> bool:
        layer = self._layer(output)
        classes = self._scores.shape[1]
        if not isinstance(layer, Layer) or classes == 1:
            return False
        first = torch.zeros_like(self._scores)
        first[:, 0] = 1
        (gradient,) = self._gradients([output], first)
        if gradient is None:
            return False
        by_channel = on_grid(gradient, layer).abs().sum(dim=(0, 2, 3))
        return len(by_channel) == classes and not by_channel[1:].any()

    def _settle(self, chosen: _Judged) -> Layer:
        """Step back over pooling to a larger grid and over reshaping to what was reshaped, then out of containers."""
        assert chosen.output.edge is not None
        assert chosen.layer is not None
        layer, node = chosen.layer, chosen.output.edge.node
        for earlier, same in back_over_pooling(node):
            for judged in self._judge(self._at(earlier)):
                if judged.layer and (same or math.prod(judged.layer.grid) > math.prod(layer.grid)):
                    layer, node = judged.layer, earlier
                    break
        names = [each for each in self._judge(self._at(node)) if each.layer and each.layer.grid == layer.grid]
        outermost = min(names, key=lambda each: each.output.name.count("."))
        assert outermost.layer is not None
        return outermost.layer

    def _at(self, node: Node) -> list[Output]:
        return [each for each in self._outputs if each.edge is not None and each.edge.node is node]


def _reaches(gradient: Tensor | None, layer: Layer) -> bool:
    return gradient is not None and bool(on_grid(gradient, layer).any())
