"""The search for the last output that carries evidence."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from camserve.attribution.grid import on_grid
from camserve.build.probe.axes import Key, Shape, lay_out
from camserve.build.probe.graph import Graph, back_over_pooling
from camserve.build.probe.places import in_place
from camserve.build.probe.watch import Output, watch, watch_shapes
from camserve.errors import ConfigError
from camserve.network.output import ScoringNetwork, device_of_network
from camserve.values import InputShape, Layer

PICTURES = 2
TOGETHER = 16  # outputs whose gradients one backward pass gives

NO_GRADIENT = "the scores' gradient reaches none of its positions"
ATTENDED = "it is a projection that attention takes apart (queries, keys, values), not a feature map"
ELSEWHERE = "the positions of its output do not lie where the picture's do"
BYPASSED = "it is one of several branches, and evidence passes it by"
SCORE_MAPS = "its channels are the classes' own score maps, not features"


class NoEvidence(ConfigError):
    """No gradient of the scores reaches an output with positions."""


@dataclass(frozen=True)
class Refusal:
    """One call of one module that is not the target layer, and why."""

    name: str
    call: int
    reason: str


@dataclass(frozen=True)
class FoundLayer:
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
    """One network and what it did with random pictures: two, a taller one, and one with its halves changed."""

    def __init__(self, network: nn.Module, shape: InputShape, seed: int) -> None:
        """Run the network; it comes back as it was. ConfigError: it fails on pictures of ``shape``."""
        network = ScoringNetwork(network)
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randn(PICTURES, *shape, generator=generator).to(device_of_network(network))
        taller: Mapping[Key, Shape] = watch_shapes(network, torch.cat([pixels[:1], pixels[1:]], dim=2))
        self._outputs, self._scores = watch(network, pixels)
        # A network that first scales every picture to its own size shows nothing by a taller one.
        taller = taller if any(_grows(output, taller) for output in self._outputs) else {}
        self._layers: dict[Key, Layer | str] = {
            output.key: _lay_out(output, taller.get(output.key), shape[1:]) for output in self._outputs
        }
        laid_out = {key: layer for key, layer in self._layers.items() if isinstance(layer, Layer)}
        # How tokens lie is a guess where no taller picture tells.
        guessed = {key for key, layer in laid_out.items() if layer.layout == "NLC" and key not in taller}
        placed = in_place(network, pixels[:1], laid_out, guessed, generator)
        self._layers.update({key: ELSEWHERE for key in laid_out if key not in placed})
        # A random weighting of the scores: no class is asked for, and none is left out.
        self._weights = torch.randn(self._scores.shape, generator=generator).to(self._scores)
        self._graph = Graph(self._scores)
        self._made = {output.edge.node: output for output in self._outputs if output.edge is not None}

    def find(self) -> FoundLayer:
        """Return the last output that carries evidence, before pooling. ConfigError: there is none."""
        refused: list[Refusal] = []
        best: _Judged | None = None
        for judged in self._judge(self._outputs[::-1]):
            reason = judged.reason or self._not_features(judged)
            if not reason:
                best = judged
                break
            refused.append(Refusal(judged.output.name, judged.output.call, reason))
            best = best or (judged if judged.layer else None)
        if best is None:
            if torch.equal(*self._scores):
                raise ConfigError("the scores of two random pictures are equal: are the weights loaded?")
            raise NoEvidence(self._why_none(refused))
        return FoundLayer(self._settle(best), tuple(refused))

    def find_beside(self, layers: Sequence[Layer]) -> Layer | None:
        """Return the last output that carries evidence which passes none of ``layers``; None: there is none.

        It is no part of what these were made from: evidence that has passed a residual connection, as that of a class
        token, would be found in all that came before.
        """
        keys = {(layer.name, layer.call) for layer in layers}
        known = [output for output in self._outputs if output.key in keys]
        others = [output for output in self._outputs[::-1] if output not in known]
        with contextlib.ExitStack() as stack:
            for output in known:
                if output.edge is not None:
                    stack.enter_context(_silenced(output.edge.node))
            found = (judged for judged in self._judge(others) if not judged.reason and not self._not_features(judged))
            beside = next(found, None)
            above = beside is not None and any(
                output.edge is not None and self._graph.is_above(_node(beside), output.edge.node) for output in known
            )
            return None if beside is None or above else self._settle(beside)

    def placed(self) -> list[Layer]:
        """Return the outputs whose positions lie where the picture's do, the last first, with evidence or without."""
        layers = (self._layers[output.key] for output in self._outputs[::-1])
        return [layer for layer in layers if isinstance(layer, Layer)]

    def _why_none(self, refused: Sequence[Refusal]) -> str:
        reasons = [refusal for refusal in refused if "no spatial extent" not in refusal.reason]
        why = f"; of the last, '{reasons[0].name}': {reasons[0].reason}" if reasons else ""
        return f"no module of the network has an output whose positions the scores' gradient reaches{why}"

    def check(self, name: str) -> tuple[Layer | None, str]:
        """Return the last call of the named module that carries evidence, else why its last call does not."""
        judged = list(self._judge([output for output in self._outputs[::-1] if output.name == name]))
        if not judged:
            return None, "it does not run in a forward pass"
        return next((verdict.layer for verdict in judged if verdict.layer), None), judged[0].reason

    def _judge(self, outputs: Sequence[Output]) -> Iterator[_Judged]:
        for start in range(0, len(outputs), TOGETHER):
            part = outputs[start : start + TOGETHER]
            layers = [self._layers[output.key] for output in part]
            wanted = [output for output, layer in zip(part, layers) if isinstance(layer, Layer)]
            gradients = dict(zip(map(id, wanted), self._gradients(wanted, self._weights)))
            for output, layer in zip(part, layers):
                if isinstance(layer, str):
                    yield _Judged(output, None, layer)
                elif not _reaches(gradients[id(output)], layer):
                    yield _Judged(output, None, NO_GRADIENT)
                else:
                    yield _Judged(output, layer)

    def _gradients(self, outputs: Sequence[Output], weights: Tensor) -> Sequence[Tensor | None]:
        edges = [output.edge for output in outputs if output.edge is not None]
        if not edges or not self._scores.requires_grad:
            return [None] * len(outputs)
        found = iter(torch.autograd.grad((weights * self._scores).sum(), edges, retain_graph=True, allow_unused=True))
        return [None if output.edge is None else next(found) for output in outputs]

    def _not_features(self, judged: _Judged) -> str:
        """Say why an output that carries evidence is still not one to draw maps from."""
        if self._graph.feeds_attention(_node(judged)):
            return ATTENDED
        if self._is_bypassed(judged):
            return BYPASSED
        return SCORE_MAPS if self._is_score_maps(judged) else ""

    def _is_bypassed(self, judged: _Judged) -> bool:
        """Whether evidence passes an output by: whether, without it, positions before the nearest fork get gradient."""
        for node in self._graph.above_forks(_node(judged)):
            for earlier in self._at(node):
                layer = self._layers[earlier.key]
                if isinstance(layer, Layer) and math.prod(layer.grid) == _cells(judged):
                    with _silenced(_node(judged)):
                        (gradient,) = self._gradients([earlier], self._weights)
                    return _reaches(gradient, layer)
        return False

    def _is_score_maps(self, judged: _Judged) -> bool:
        first = torch.zeros_like(self._scores)
        first[:, 0] = 1
        (gradient,) = self._gradients([judged.output], first)
        assert gradient is not None
        assert judged.layer is not None
        by_channel = on_grid(gradient, judged.layer).abs().sum(dim=(0, 2, 3))
        return 1 < len(by_channel) == self._scores.shape[1] and not by_channel[1:].any()

    def _settle(self, chosen: _Judged) -> Layer:
        """Step back over pooling to a larger grid and over reshaping to what was reshaped, then out of containers."""
        aliases, pooled = [chosen], False
        for node, reshaped in back_over_pooling(_node(chosen)):
            pooled = pooled or not reshaped
            for judged in self._judge(self._at(node)):
                growth = _cells(judged) - _cells(aliases[-1])
                if growth > 0:
                    aliases, pooled = [judged], False
                elif growth == 0 and not pooled:
                    aliases.append(judged)
        maker = aliases[-1].output.name
        containers = [alias for alias in aliases if f"{maker}.".startswith(f"{alias.output.name}.")]
        outermost = min(containers, key=lambda alias: len(alias.output.name)).layer
        assert outermost is not None
        return outermost

    def _at(self, node: Node) -> list[Output]:
        return [self._made[node]] if node in self._made else []


def _node(judged: _Judged) -> Node:
    assert judged.output.edge is not None
    return judged.output.edge.node


@contextlib.contextmanager
def _silenced(node: Node) -> Iterator[None]:
    """Let no gradient pass a node of the autograd graph."""
    handle = node.register_prehook(
        lambda gradients: tuple(None if gradient is None else torch.zeros_like(gradient) for gradient in gradients)
    )
    try:
        yield
    finally:
        handle.remove()


def _cells(judged: _Judged) -> int:
    return math.prod(judged.layer.grid) if judged.layer else 0


def _grows(output: Output, taller: Mapping[Key, Shape]) -> bool:
    return output.key in taller and output.shape is not None and output.shape[1:] != taller[output.key][1:]


def _lay_out(output: Output, taller: Shape | None, size: tuple[int, int]) -> Layer | str:
    if output.shape is None:
        return f"its output is a {output.kind}, not a tensor"
    if output.shape[:1] != (PICTURES,):
        return f"its output of shape {output.shape} does not have one entry a picture"
    return lay_out(output.key, output.shape, taller, size)


def _reaches(gradient: Tensor | None, layer: Layer) -> bool:
    return gradient is not None and bool(on_grid(gradient, layer).any())
