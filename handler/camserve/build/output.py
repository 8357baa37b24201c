"""What a network's output means, found by running it: which tensor holds the scores, and what stands at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camserve.build.recipe import OutputChoice
from camserve.errors import ConfigError, first_line
from camserve.network.last_activation import ActivationCall, WatchActivations
from camserve.network.output import count_rows
from camserve.network.returned import as_rows, describe, may_be_scores, select, tensors_in
from camserve.output_spec import TASKS, OutputSpec
from camserve.values import Progress

EXACT = 1e-6  # two copies of one number, in float32
SUMS = 1e-3  # how far the sum of a row of probabilities may be from 1
CONVENTION = "logits"  # what the transformers library calls the scores


@dataclass(frozen=True)
class Meaning:
    """What the output of one network means."""

    output: OutputSpec
    classes: int


def find_meaning(
    network: nn.Module, pixels: Tensor, choice: OutputChoice, task: str | None, labels: int | None, report: Progress
) -> Meaning:
    """Run a network in eval mode on (N, C, H, W) pictures, two at least, and say what it returns.

    ``labels`` is the number of class names, None where nobody gave any. ``report`` gets a line for everything that was
    taken for granted. ConfigError: it cannot be told; the message names what can be said.
    """
    with torch.no_grad(), WatchActivations() as watch:
        returned = _run(network, pixels)
    path = _choose_tensor(returned, len(pixels), choice.select, labels, report)
    rows = as_rows(select(returned, path), returned).float()
    if len(rows) != len(pixels):
        raise ConfigError(count_rows(len(rows), len(pixels)))
    activation, call = _find_activation(rows, watch.calls, choice.activation, task)
    found = task or _find_task(rows.shape[1], activation)
    _check_task(found, rows.shape[1], activation)
    _report(path, activation, found, rows, report)
    return Meaning(OutputSpec(path, activation, call, found), 2 if found == "binary" else rows.shape[1])


def _run(network: nn.Module, pixels: Tensor) -> Any:
    try:
        return network(pixels)
    except ConfigError:
        raise
    except Exception as error:
        shape = " x ".join(map(str, pixels.shape[1:]))
        raise ConfigError(
            f"the network fails on pictures of {shape} (channels, height, width): {type(error).__name__}: "
            f"{first_line(error)}; are input's size and channels those of the network?"
        ) from error


def _choose_tensor(returned: Any, pictures: int, wanted: str | None, labels: int | None, report: Progress) -> str:
    """Return the path of the tensor that holds the scores, where there is one that can be told from the others."""
    if wanted is not None:
        return wanted
    if isinstance(returned, Tensor):
        return ""
    found = {path: tensor for path, tensor in tensors_in(returned) if may_be_scores(tensor) and tensor.ndim > 1}
    candidates = {path: tensor for path, tensor in found.items() if len(tensor) == pictures}
    if not candidates:
        raise ConfigError(f"the classifier returns {describe(returned)}; it must return scores of shape (N, classes)")
    if CONVENTION in candidates:
        return CONVENTION
    fitting = [path for path, tensor in candidates.items() if tensor.flatten(1).shape[1] == labels]
    if len(fitting) == 1:
        if len(candidates) > 1:
            report(f"the scores are output '{fitting[0]}': it alone has {labels} numbers, one for each label")
        return fitting[0]
    shapes = ", ".join(f"'{path}' (N, {tensor.flatten(1).shape[1]})" for path, tensor in candidates.items())
    raise ConfigError(f"which output holds the scores? Say output: {{select: ...}}; there is {shapes}")


def _find_activation(
    rows: Tensor, calls: Sequence[ActivationCall], wanted: str | None, task: str | None
) -> tuple[str, int]:
    """Return what stands at the end, and which call of it that is; nothing is taken off the end of a quantity."""
    if task == "regression":
        if wanted not in (None, "none"):
            raise ConfigError(
                "output.activation has no use: the values of task regression are what the network returns"
            )
        return "none", 0
    kind, call = _last_activation(rows, calls)
    if kind is None:
        kind = _judge_values(rows, wanted)
    if wanted not in (None, kind):
        raise ConfigError(f"output.activation is '{wanted}', and what stands at the network's end is: {kind}")
    return kind, call


def _last_activation(rows: Tensor, calls: Sequence[ActivationCall]) -> tuple[str | None, int]:
    for number in reversed(range(len(calls))):
        call = calls[number]
        if call.result.numel() == rows.numel() and _same(call.result.reshape(rows.shape), rows):
            return call.kind, sum(earlier.kind == call.kind for earlier in calls[:number])
    return None, 0


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(((one.float() - other).abs() <= EXACT).all())


def _judge_values(rows: Tensor, wanted: str | None) -> str:
    """Return ``none`` or ``probabilities`` by the values themselves. ConfigError: they may be either."""
    if wanted in ("none", "probabilities"):
        return wanted
    if float(rows.min()) < 0 or float(rows.max()) > 1:
        return "none"
    if rows.shape[1] > 1 and float((rows.sum(dim=1) - 1).abs().max()) < SUMS:
        return "probabilities"
    raise ConfigError(
        f"the network's outputs all lie between 0 and 1 ({float(rows.min()):.3g} to {float(rows.max()):.3g}), and no "
        "sigmoid or softmax was seen at its end: say output: {activation: probabilities} if they are probabilities, or "
        "{activation: none} if they are scores"
    )


def _find_task(width: int, activation: str) -> str:
    if width == 1:
        raise ConfigError(
            "the network gives one number a picture: say task: binary (it stands for one of two classes) or "
            "task: regression (it is a quantity)"
        )
    if activation == "sigmoid":
        raise ConfigError(
            "the network ends in a sigmoid: say task: multilabel (several classes can be true at once) or "
            "task: multiclass (the largest alone is)"
        )
    return "multiclass"


def _check_task(task: str, width: int, activation: str) -> None:
    if task not in TASKS:
        raise ConfigError(f"task must be one of {', '.join(TASKS)}, not '{task}'")
    if task == "binary" and width != 1:
        raise ConfigError(f"task binary is for one output; the classifier gives {width}: leave task out, or multilabel")
    if task in ("multilabel", "binary") and activation in ("softmax", "log_softmax"):
        raise ConfigError(f"the network ends in a {activation}, so that one class alone is true: leave task {task} out")


def _report(path: str, activation: str, task: str, rows: Tensor, report: Progress) -> None:
    end = (
        "its values"
        if task == "regression"
        else {
            "none": "its scores",
            "probabilities": "probabilities with no score before them: the score is their logarithm or logit",
        }.get(activation, f"the result of a {activation.replace('_', '-')}: the score is what that is given")
    )
    place = f"'{path}', " if path else ""
    report(f"output: {place}{rows.shape[1]} numbers a picture, {end}; task {task}")
    if (
        task == "multiclass"
        and activation == "none"
        and float(rows.max()) <= 0
        and float((rows.exp().sum(dim=1) - 1).abs().max()) < SUMS
    ):
        report("output: these are log-probabilities with no score before them: maps are of the log-probability")
