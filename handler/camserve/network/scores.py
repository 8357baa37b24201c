"""From what a classifier returned to the scores of one of its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from camserve.errors import ConfigError
from camserve.network.last_activation import ActivationCall
from camserve.network.returned import as_rows, select
from camserve.output_spec import WITH_SCORES_BEFORE, OutputSpec

SMALLEST = 1e-30  # of a probability whose logarithm is taken


def scores_of(output: OutputSpec, returned: Any, calls: Sequence[ActivationCall], pictures: Any) -> Tensor:
    """Return the scores (N, K) of one output, from what was ``returned`` for N ``pictures``: float32, or float64.

    ``calls`` are the activations that ran. With the task binary the one logit s becomes the scores of two classes, -s
    and s, so that what speaks for the negative class can be asked too. ConfigError: there are no scores, or not one row
    of them for each picture.
    """
    scores = _at_least_float32(_before_activation(output, as_rows(select(returned, output.select), returned), calls))
    if scores.shape[0] != pictures:  # not len(): an exported program takes any number of rows
        raise ConfigError(count_rows(scores.shape[0], pictures))
    if output.task != "binary":
        return scores
    if scores.shape[1] != 1:
        raise ConfigError(f"task binary is for one logit; the classifier gives {scores.shape[1]} scores")
    return torch.cat([-scores, scores], dim=1)


def count_rows(rows: int, pictures: int) -> str:
    """Word that the scores do not go with the pictures."""
    return (
        f"the network gives {rows} row(s) of scores for {pictures} picture(s): it must keep the batch axis (no "
        "squeeze() without an axis, no reshape(-1, classes)) and take pictures of input's size"
    )


def _before_activation(output: OutputSpec, rows: Tensor, calls: Sequence[ActivationCall]) -> Tensor:
    if output.activation == "probabilities":
        return _invert(_at_least_float32(rows), output.task)
    if output.activation not in WITH_SCORES_BEFORE:
        return rows
    found = [call for call in calls if call.kind == output.activation]
    if output.call >= len(found):
        raise ConfigError(f"no {output.activation} ran at the end of the network, as it did at the build")
    return found[output.call].given.reshape(rows.shape)


def _at_least_float32(rows: Tensor) -> Tensor:
    return rows if rows.dtype == torch.float64 else rows.float()


def _invert(probabilities: Tensor, task: str) -> Tensor:
    """Return the scores that a softmax or sigmoid would turn into these probabilities: their logarithm or logit."""
    logs = probabilities.clamp(min=SMALLEST).log()
    return logs if task == "multiclass" else logs - (1 - probabilities).clamp(min=SMALLEST).log()
