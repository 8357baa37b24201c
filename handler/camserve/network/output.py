"""One shape of answer from any classifier: a tensor of scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camserve.errors import BadOption, first_line, quote
from camserve.network.last_activation import WatchActivations
from camserve.network.scores import scores_of
from camserve.output_spec import WITH_SCORES_BEFORE, OutputSpec

# What another order of the same arithmetic may change, of the largest value.
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Score:
    """A person's own code that asks a network, with the context of each row."""

    function: Callable[[nn.Module, Tensor, Sequence[str]], Any]  # (network, (N, C, H, W), N texts) -> as a network's
    usual: str = ""  # the context of a pass that names none


class ScoringNetwork(nn.Module):
    """Any image classifier as a function from (N, C, H, W) pixels to (N, K) float32 scores.

    A score is what stands before the softmax or sigmoid, whether that is part of the classifier or not. Modules and
    parameters keep the names that they have in the classifier itself, so that target layers are named as its owner
    knows them.
    """

    def __init__(self, classifier: nn.Module, *outputs: OutputSpec, score: Score | None = None) -> None:
        """Wrap a classifier whose weights are already loaded: a state dict would carry this wrapper's prefix.

        Without ``outputs`` it returns one tensor of scores. With ``score``, that asks the classifier, and its result
        stands for what the classifier returns.
        """
        super().__init__()
        self.classifier = classifier
        self.outputs = outputs or (OutputSpec(),)
        self.score = score

    def forward(self, pixels: Tensor, contexts: Sequence[str] | None = None) -> Tensor:
        """Return the scores of all outputs side by side, (N, K); ``contexts`` and errors as for ``score_heads``."""
        heads = self.score_heads(pixels, contexts)
        return heads[0] if len(heads) == 1 else torch.cat(heads, dim=1)

    def score_heads(self, pixels: Tensor, contexts: Sequence[str] | None = None) -> list[Tensor]:
        """Return the scores (N, K) of each output, from one pass.

        ``contexts`` has one text a row, for ``score``. BadOption: it refuses one of them. ConfigError: as for
        ``scores_of``.
        """
        if all(output.activation not in WITH_SCORES_BEFORE for output in self.outputs):
            returned, calls = self.call(pixels, contexts), []
        else:
            with WatchActivations() as watch:
                returned, calls = self.call(pixels, contexts), watch.calls
        return [scores_of(output, returned, calls, pixels.shape[0]) for output in self.outputs]

    def call(self, pixels: Tensor, contexts: Sequence[str] | None = None) -> Any:
        """Return what the classifier returns, or what ``score`` makes of it. BadOption: it refuses a context."""
        if self.score is None:
            return self.classifier(pixels)
        try:
            return self.score.function(self.classifier, pixels, contexts or [self.score.usual] * pixels.shape[0])
        except ValueError as error:
            raise BadOption(f"option 'context' is refused by the model: {quote(first_line(error))}") from error

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


def device_of_network(network: nn.Module) -> torch.device:
    """Return the device of a network's parameters; the CPU where it has none."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
