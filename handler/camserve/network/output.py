"""One shape of answer from any classifier: a tensor of scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from camserve.errors import ConfigError
from camserve.network.last_activation import WatchActivations
from camserve.network.returned import as_rows, select
from camserve.output_spec import WITH_SCORES_BEFORE, OutputSpec

# What another order of the same arithmetic may change, of the largest value.
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
SMALLEST = 1e-30  # of a probability whose logarithm is taken
WHOLE = OutputSpec()


class ScoringNetwork(nn.Module):
    """Any image classifier as a function from (N, C, H, W) pixels to (N, K) float32 scores.

    A score is what stands before the softmax or sigmoid, whether that is part of the classifier or not. Modules and
    parameters keep the names that they have in the classifier itself, so that target layers are named as its owner
    knows them.
    """

    def __init__(self, classifier: nn.Module, output: OutputSpec = WHOLE) -> None:
        """Wrap a classifier whose weights are already loaded: a state dict would carry this wrapper's prefix.

        With the task binary the classifier's one logit s becomes the scores of two classes, -s and s, so that what
        speaks for the negative class can be asked too.
        """
        super().__init__()
        self.classifier = classifier
        self.output = output

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the scores (N, K).

        ConfigError: what the classifier returns holds no scores, or not one row of them for each picture.
        """
        scores = self._scores(pixels).float()
        if scores.shape[0] != pixels.shape[0]:  # not len(): an exported program takes any number of rows
            raise ConfigError(count_rows(scores.shape[0], pixels.shape[0]))
        if self.output.task != "binary":
            return scores
        if scores.shape[1] != 1:
            raise ConfigError(f"task binary is for one logit; the classifier gives {scores.shape[1]} scores")
        return torch.cat([-scores, scores], dim=1)

    def _scores(self, pixels: Tensor) -> Tensor:
        if self.output.activation not in WITH_SCORES_BEFORE:
            rows = self._rows(pixels)
            return rows if self.output.activation == "none" else self._invert(rows)
        with WatchActivations() as watch:
            rows = self._rows(pixels)
        calls = [call for call in watch.calls if call.kind == self.output.activation]
        if self.output.call >= len(calls):
            raise ConfigError(f"no {self.output.activation} ran at the end of the network, as it did at the build")
        scores: Tensor = calls[self.output.call].given.reshape(rows.shape)
        return scores

    def _rows(self, pixels: Tensor) -> Tensor:
        returned: Any = self.classifier(pixels)
        return as_rows(select(returned, self.output.select), returned)

    def _invert(self, probabilities: Tensor) -> Tensor:
        """Return the scores that a softmax or sigmoid would turn into these probabilities: their logarithm or logit."""
        logs = probabilities.float().clamp(min=SMALLEST).log()
        return (
            logs if self.output.task == "multiclass" else logs - (1 - probabilities.float()).clamp(min=SMALLEST).log()
        )

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Name the classifier's modules as the classifier does; parameters and buffers follow from this."""
        yield from self.classifier.named_modules(memo, prefix, remove_duplicate)

    def get_submodule(self, target: str) -> nn.Module:
        """Return a module of the classifier by the name that it has there."""
        return self.classifier.get_submodule(target)

    def put(self, name: str, value: nn.Module | Tensor) -> None:
        """Put a module or a parameter in place of one of the classifier's."""
        parent, _, leaf = name.rpartition(".")
        setattr(self.get_submodule(parent), leaf, value)

    def gives(self, expected: Tensor, pixels: Tensor) -> bool:
        """Say whether this network runs on (N, C, H, W) ``pixels`` and gives these scores (N, K), but for rounding."""
        try:
            with torch.no_grad():
                found = self(pixels)
        except Exception:  # code of the classifier's own reads what is no longer there
            return False
        return float((found - expected).abs().max()) <= ROUNDING[pixels.dtype] * float(expected.abs().max())


def count_rows(rows: int, pictures: int) -> str:
    """Word that the scores do not go with the pictures."""
    return (
        f"the network gives {rows} row(s) of scores for {pictures} picture(s): it must keep the batch axis (no "
        "squeeze() without an axis, no reshape(-1, classes)) and take pictures of input's size"
    )


def device_of_network(network: nn.Module) -> torch.device:
    """Return the device of a network's parameters; the CPU where it has none."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
