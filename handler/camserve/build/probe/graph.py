"""What the autograd graph tells of a network: which operators stand between two outputs."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator

from torch import Tensor
from torch.autograd.graph import Node

RESHAPING = ("View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "T", "Clone", "Alias", "ToCopy")
POOLING = ("MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "FractionalMaxPool")
ACTIVATION = ("Relu", "LeakyRelu", "Elu", "Gelu", "Silu", "Mish", "Hardtanh", "Hardswish", "Sigmoid", "Tanh", "Dropout")
PRODUCT = ("Bmm", "Baddbmm")  # of activations, or with an expanded weight, which is frozen and has no node
WEIGHTED = ("Addmm", "Mm", "Convolution", "MkldnnConvolution")


class Graph:
    """The operators that made the scores, each with those that read its result."""

    def __init__(self, scores: Tensor) -> None:
        """Walk the whole graph once. Holding its nodes keeps their identity."""
        self._readers: dict[Node, list[Node]] = defaultdict(list)
        waiting = [scores.grad_fn] if scores.grad_fn is not None else []
        known = set(waiting)
        while waiting:
            node = waiting.pop()
            for made_by in _inputs(node):
                self._readers[made_by].append(node)
                if made_by not in known:
                    known.add(made_by)
                    waiting.append(made_by)

    def feeds_attention(self, node: Node) -> bool:
        """Whether the result of ``node`` meets a product of activations before any weights: queries, keys, values."""
        waiting, known = [node], {node}
        while waiting:
            for reader in self._readers[waiting.pop()]:
                if reader in known:
                    continue
                known.add(reader)
                if _is_attention(reader):
                    return True
                if not _is(reader, WEIGHTED + PRODUCT):
                    waiting.append(reader)
        return False

    def is_above(self, earlier: Node, later: Node) -> bool:
        """Whether the result of ``earlier`` is part of what ``later`` was made from."""
        waiting, known = [earlier], {earlier}
        while waiting:
            new = [reader for reader in self._readers[waiting.pop()] if reader not in known]
            known.update(new)
            waiting += new
        return later in known

    def above_forks(self, node: Node) -> Iterator[Node]:
        """Walk back from ``node``, the nearest first, over all that is read by more than one path."""
        waiting, known = deque((made_by, False) for made_by in _inputs(node)), {node}
        while waiting:
            reached, forked = waiting.popleft()
            if reached in known:
                continue
            known.add(reached)
            forked = forked or len(self._readers[reached]) > 1
            if forked:
                yield reached
            waiting.extend((made_by, forked) for made_by in _inputs(reached))


def back_over_pooling(node: Node) -> Iterator[tuple[Node, bool]]:
    """Walk back from ``node`` while only pooling, activations and reshaping were done.

    Yields each node on the way, and whether the step to it only undid a reshaping.
    """
    while _is(node, RESHAPING + POOLING + ACTIVATION):
        reshaped = _is(node, RESHAPING)
        inputs = _inputs(node)
        if len(inputs) != 1:
            return
        node = inputs[0]
        yield node, reshaped


def _inputs(node: Node) -> list[Node]:
    return [made_by for made_by, _ in node.next_functions if made_by is not None]


def _is(node: Node, kinds: tuple[str, ...]) -> bool:
    # "MaxPool2DWithIndicesBackward0": autograd names a node after the operator it undoes.
    return node.name().startswith(kinds)


def _is_attention(node: Node) -> bool:
    return "ScaledDotProduct" in node.name() or (_is(node, PRODUCT) and len(_inputs(node)) > 1)
