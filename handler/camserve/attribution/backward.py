"""From scores back to an activation: plain automatic differentiation, and the protocol that a shortcut keeps."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from camserve.attribution.grid import off_grid, on_grid
from camserve.attribution.objectives import Objectives
from camserve.attribution.tape import NotReplayable, Tape
from camserve.errors import ConfigError, OutOfTime
from camserve.values import Layer

PICTURES_AT_ONCE = 32  # in one forward pass
BLOCKS_AT_ONCE = 16  # the same where autograd keeps a transformer's last block of each: most of the peak memory
ROWS_AT_ONCE = 32  # gradients that one backward pass carries: as many as a forward pass carries pictures


@dataclass(frozen=True)
class Run:
    """One watched forward pass, as seen from one layer."""

    layer: Layer
    scores: Tensor  # (N, C) as the network returned them
    output: Tensor  # of the layer's module, in its own layout
    outputs: Mapping[str, Tensor] = field(default_factory=dict)  # (N, M) float32 of further watched modules
    tape: Tape | None = None
    until: float = math.inf  # time.monotonic() after which no further pass is begun

    @cached_property
    def activations(self) -> Tensor:
        """The layer's output on its grid, (N, K, h, w) float32."""
        return on_grid(self.output.detach(), self.layer)

    def path(self) -> list[str] | None:
        """Return the operators from the scores back to the output, as autograd names them; None: there are two ways."""
        names, node = [], self.scores.grad_fn
        while node is not None and node.next_functions:
            names.append(node.name().partition("Backward")[0])
            inputs = [made for made, _ in node.next_functions if made is not None]
            node = inputs[0] if len(inputs) == 1 else None
        return None if node is None else names

    def check_time(self) -> None:
        """Stop what takes too long. OutOfTime: it is later than ``until``."""
        if time.monotonic() > self.until:
            raise OutOfTime(f"the time for the explanations at '{self.layer.name}' is over")


class Backward(Protocol):
    """How gradients at one layer are found; every implementation gives the same as ``AutogradBackward``."""

    needs_graph: bool  # False: the forward pass may run in inference mode
    pictures_at_once: int  # in one forward pass, so that explaining needs no more memory than predicting
    watched: Sequence[str]  # names of modules whose outputs it wants besides the layer's

    def gradients(self, run: Run, objectives: Objectives) -> Tensor:
        """Return d objective / d activation, (T, K, h, w) float32. ConfigError, OutOfTime."""

    def mean_gradients(self, run: Run, objectives: Objectives) -> Tensor:
        """Return the mean of ``gradients`` over the positions, (T, K) float32."""

    def rescore(self, run: Run, activations: Tensor) -> Tensor:
        """Return the scores (N, C) of other activations (N, K, h, w). ConfigError: the tail cannot be run again."""


class AutogradBackward:
    """Gradients by torch.autograd, and scores by running the recorded tail again: works for every network."""

    needs_graph = True
    watched: Sequence[str] = ()

    def __init__(self, pictures_at_once: int = PICTURES_AT_ONCE) -> None:
        """Set how many pictures one forward pass should hold."""
        self.pictures_at_once = pictures_at_once

    @classmethod
    def at(cls, layer: Layer, device: torch.device) -> AutogradBackward:
        """Return the strategy for one layer of a network on ``device``."""
        return cls(BLOCKS_AT_ONCE if layer.prefix and device.type == "cpu" else PICTURES_AT_ONCE)

    def gradients(self, run: Run, objectives: Objectives) -> Tensor:
        """Return d objective / d activation, (T, K, h, w) float32: one backward pass for one objective of every row.

        ConfigError: no gradient reaches the layer. OutOfTime: between two passes.
        """
        if not run.scores.requires_grad:
            raise _independent(run)
        if objectives.per_row(len(run.scores)) == 1:
            return on_grid(pull_back(run, objectives.weights.to(run.scores)[None])[0], run.layer)
        # Rows do not mix, so one backward pass serves one objective of every row at once.
        order = objectives.order
        turns = torch.tensor(order, device=objectives.device)
        weights = run.scores.new_zeros((max(order) + 1, *run.scores.shape))
        weights[turns, objectives.row_index] = objectives.weights.to(weights)
        parts = torch.split(weights, max(1, ROWS_AT_ONCE // len(run.scores)))
        found = torch.cat([pull_back(run, part) for part in parts])[turns, objectives.row_index]
        return on_grid(found, run.layer)

    def mean_gradients(self, run: Run, objectives: Objectives) -> Tensor:
        """Return the mean of ``gradients`` over the positions, (T, K) float32."""
        return self.gradients(run, objectives).mean(dim=(2, 3))

    def rescore(self, run: Run, activations: Tensor) -> Tensor:
        """Return the scores (N, C) of other activations (N, K, h, w). ConfigError: it was not or cannot be recorded."""
        if run.tape is None:
            raise ConfigError(f"the tail after '{run.layer.name}' was not recorded: Capture.forward(pixels, tape=True)")
        try:
            return run.tape.replay(off_grid(activations, run.layer, run.output.detach())).float()
        except NotReplayable as error:
            raise ConfigError(f"the tail after '{run.layer.name}' cannot be run again: {error}") from None


def pull_back(run: Run, weights: Tensor) -> Tensor:
    """Return d (weights . scores) / d output, (S, *output.shape), for weights (S, N, C); the graph is kept.

    ConfigError: no gradient reaches the layer.
    """
    run.check_time()
    several = len(weights) > 1  # batching asks more of the operators than one gradient does
    try:
        (gradient,) = torch.autograd.grad(
            run.scores,
            run.output,
            weights if several else weights[0],
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=several,
        )
    except RuntimeError:  # an operator that takes one gradient only, or too little memory
        if not several:
            raise
        return torch.cat([pull_back(run, weight[None]) for weight in weights])
    if gradient is None:
        raise _independent(run)
    return gradient if several else gradient[None]


def _independent(run: Run) -> ConfigError:
    return ConfigError(f"the scores do not depend on the output of '{run.layer.name}'")
