"""One shape of answer from any classifier: a tensor of scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from camserve.errors import ConfigError

# What another order of the same arithmetic may change, of the largest value.
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class ScoringNetwork(nn.Module):
    """Any image classifier as a function from (N, C, H, W) pixels to (N, C) float32 scores before softmax.

    Modules and parameters keep the names that they have in the classifier itself, so that target
    layers are named as its owner knows them.
    """

    def __init__(self, classifier: nn.Module, binary: bool = False) -> None:
        """Wrap a classifier whose weights are already loaded: a state dict would carry this wrapper's prefix.

        With ``binary`` the classifier's one logit s becomes the scores of two classes, -s and s, so that
        what speaks for the negative class can be asked too.
        """
        super().__init__()
        self.classifier = classifier
        self.binary = binary

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the scores (N, C). ConfigError: nothing in the classifier's output is shaped like scores."""
        scores = scores_of(self.classifier(pixels))
        if not self.binary:
            return scores
        if scores.shape[1] != 1:
            raise ConfigError(f"task binary is for one logit; the classifier gives {scores.shape[1]} scores")
        return torch.cat([-scores, scores], dim=1)

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
        """Say whether this network runs on (N, C, H, W) ``pixels`` and gives these scores (N, C), but for rounding."""
        try:
            with torch.no_grad():
                found = self(pixels)
        except Exception:  # code of the classifier's own reads what is no longer there
            return False
        return float((found - expected).abs().max()) <= ROUNDING[pixels.dtype] * float(expected.abs().max())


def device_of_network(network: nn.Module) -> torch.device:
    """Return the device of a network's parameters; the CPU where it has none."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def scores_of(output: Any) -> Tensor:
    """Find the scores (N, C) float32 in what a classifier returned.

    That is a tensor; the ``logits`` of an object or a mapping (transformers); else the first tensor
    of two dimensions in a tuple, list or mapping. (N,) is taken as one score a row, and axes of
    length 1 after the second are dropped. ConfigError: there is no such tensor.
    """
    scores = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if scores is None:
        several = (
            output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
        )
        scores = next((value for value in several if isinstance(value, Tensor) and value.ndim == 2), output)
    if not _are_scores(scores):
        raise ConfigError(f"the classifier returns {_describe(output)}; it must return scores of shape (N, classes)")
    matrix: Tensor = scores.flatten(1) if scores.ndim > 1 else scores[:, None]
    return matrix.float()


def _are_scores(value: object) -> bool:
    if not isinstance(value, Tensor) or value.ndim == 0 or not value.is_floating_point():
        return False
    return all(side == 1 for side in value.shape[2:])


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a {str(output.dtype).split('.')[-1]} tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of {', '.join(f'{name}: {_kind(value)}' for name, value in output.items())}"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of {', '.join(map(_kind, output)) or 'nothing'}"
    return f"a {type(output).__name__} without logits"


def _kind(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
