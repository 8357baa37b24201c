"""What one layer gave in one forward pass, with the gradients that maps are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from camserve.attribution.backward import Backward, Run, pull_back
from camserve.attribution.linear_head import LinearHead
from camserve.attribution.objectives import Objectives


class LayerOutput:
    """The activations of one layer in one forward pass; equal objectives share their gradients."""

    def __init__(
        self, run: Run, network: nn.Module, pixels: Tensor, head: LinearHead | None, backward: Backward
    ) -> None:
        """Keep the graph of the tail alive; it is freed with this object."""
        self.layer = run.layer
        self.network = network  # for methods that run passes of their own
        self.pixels = pixels  # (N, C, H, W), the network's input
        self.head = head
        self.scores = run.scores.detach().float()  # (N, C)
        self.activations = run.activations  # (N, K, h, w) float32
        self._run = run
        self._backward = backward
        self._gradients: dict[Objectives, Tensor] = {}
        self._means: dict[Objectives, Tensor] = {}

    def within(self, until: float) -> LayerOutput:
        """Return the same output for methods that must stop at ``until``, on the clock of time.monotonic()."""
        other = LayerOutput.__new__(LayerOutput)
        other.__dict__.update(self.__dict__, _run=replace(self._run, until=until))
        return other

    def path(self) -> list[str] | None:
        """Return the operators from the scores back to the layer, as autograd names them; None: there are two ways."""
        return self._run.path()

    def check_time(self) -> None:
        """Stop what takes too long. OutOfTime: its time is over."""
        self._run.check_time()

    def gradients(self, objectives: Objectives) -> Tensor:
        """Return d objective / d activation, (T, K, h, w) float32.

        ConfigError: no gradient reaches the layer. OutOfTime: between two passes.
        """
        return _find(self._gradients, objectives, lambda: self._backward.gradients(self._run, objectives))

    def pull_back(self, weights: Tensor) -> None:
        """Run one backward pass of the weighted (N, C) scores to the layer, for what watches its operators.

        None is run where a shortcut left no graph: it knows every operator of the tail. OutOfTime.
        """
        if self._run.scores.requires_grad:
            pull_back(self._run, weights.to(self._run.scores)[None])

    def mean_gradients(self, objectives: Objectives) -> Tensor:
        """Return the mean of ``gradients`` over the positions, (T, K) float32; errors as there."""
        if objectives in self._gradients:
            return self._gradients[objectives].mean(dim=(2, 3))
        return _find(self._means, objectives, lambda: self._backward.mean_gradients(self._run, objectives))

    def rescore(self, activations: Tensor) -> Tensor:
        """Return the scores (N, C) that other activations (N, K, h, w) would get.

        ConfigError: the tail was not recorded, or cannot be run again. OutOfTime.
        """
        self.check_time()
        return self._backward.rescore(self._run, activations)

    def activations_of(self, objectives: Objectives) -> Tensor:
        """Return the activation (T, K, h, w) of each objective's row."""
        return objectives.spread(self.activations)


def _find(known: dict[Objectives, Tensor], objectives: Objectives, find: Callable[[], Tensor]) -> Tensor:
    if objectives not in known:
        known[objectives] = find()
    return known[objectives]
