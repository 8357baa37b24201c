"""What a network's output means, found by running it: which tensor holds the scores, and what stands at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from camserve.build.recipe import HeadChoice
from camserve.errors import BadOption, ConfigError, first_line
from camserve.network.last_activation import ActivationCall, WatchActivations
from camserve.network.returned import as_rows, describe_returned, may_be_scores, select, tensors_in
from camserve.network.scores import count_rows
from camserve.output_spec import TASKS, OutputSpec
from camserve.values import Progress

EXACT = 1e-6  # two copies of one number, in float32
SUMS = 1e-3  # how far the sum of a row of probabilities may be from 1
CONVENTION = "logits"  # what the transformers library calls the scores


@dataclass(frozen=True)
class Meaning:
    """What one output of a network means."""

    output: OutputSpec
    classes: int


@dataclass(frozen=True)
class _Pass:
    """What one forward pass gave."""

    returned: Any
    calls: Sequence[ActivationCall]
    pictures: int


def find_meanings(
    network: Callable[[Tensor], Any],
    pixels: Tensor,
    choices: Mapping[str, HeadChoice],
    labels: Sequence[int | None],
    report: Progress,
) -> list[Meaning]:
    """Run a network in eval mode once on (N, C, H, W) pictures, two at least, and say what each output means, by name.

    ``labels`` are the numbers of class names, None where nobody gave any. ``report`` gets a line for everything that
    was taken for granted. ConfigError: it cannot be told; the message names what can be said.
    """
    with torch.no_grad(), WatchActivations() as watch:
        returned = _run(network, pixels)
    ran = _Pass(returned, watch.calls, len(pixels))
    return [_find_head(ran, name, choice, count, report) for (name, choice), count in zip(choices.items(), labels)]


def _find_head(ran: _Pass, name: str, choice: HeadChoice, labels: int | None, report: Progress) -> Meaning:
    if not name:
        return _find(ran, name, choice, labels, report)
    try:
        found = _find(ran, name, choice, labels, lambda line: report(f"head {name}: {line}"))
    except ConfigError as error:
        raise ConfigError(f"heads.{name}: {error}") from None
    return replace(found, output=replace(found.output, name=name, labels=f"labels-{name}.txt"))


def _find(ran: _Pass, name: str, choice: HeadChoice, labels: int | None, report: Progress) -> Meaning:
    path = _choose_tensor(ran, name, labels, report) if choice.select is None else choice.select
    rows = as_rows(select(ran.returned, path), ran.returned).float()
    if len(rows) != ran.pictures:
        raise ConfigError(count_rows(len(rows), ran.pictures))
    width = rows.shape[1]
    activation, call = _find_activation(rows, ran.calls, choice.activation, choice.task)
    task = choice.task or ("multiclass" if width == 1 else _find_task(activation))
    _check_task(task, width, activation)
    _report(path, activation, task, rows, report)
    output = OutputSpec(path, activation, call, task, choice.threshold, units=choice.units)
    return Meaning(output, 2 if task == "binary" else width)


def _run(network: Callable[[Tensor], Any], pixels: Tensor) -> Any:
    try:
        return network(pixels)
    except ConfigError:
        raise
    except BadOption as error:
        raise ConfigError(f"{error}; defaults: {{context: ...}} must name one that it takes") from None
    except Exception as error:
        shape = " x ".join(map(str, pixels.shape[1:]))
        raise ConfigError(
            f"the network fails on pictures of {shape} (channels, height, width): {type(error).__name__}: "
            f"{first_line(error)}; are input's size and channels those of the network?"
        ) from error


def _choose_tensor(ran: _Pass, name: str, labels: int | None, report: Progress) -> str:
    """Return the path of the tensor that holds a head's scores, where there is one that can be told from the others."""
    returned = ran.returned
    if isinstance(returned, Tensor):
        return ""
    found = {path: tensor for path, tensor in tensors_in(returned) if may_be_scores(tensor) and tensor.ndim > 1}
    candidates = {path: tensor for path, tensor in found.items() if len(tensor) == ran.pictures}
    if not candidates:
        raise ConfigError(
            f"the classifier returns {describe_returned(returned)}; it must return scores of shape (N, classes)"
        )
    if (path := name or CONVENTION) in candidates:
        return path
    fitting = [path for path, tensor in candidates.items() if tensor.flatten(1).shape[1] == labels]
    if len(fitting) == 1:
        if len(candidates) > 1:
            report(f"the scores are output '{fitting[0]}': it alone has {labels} numbers, one for each label")
        return fitting[0]
    shapes = ", ".join(f"'{path}' (N, {tensor.flatten(1).shape[1]})" for path, tensor in candidates.items())
    key = "select: ..." if name else "output: {select: ...}"
    raise ConfigError(f"which output holds the scores? Say {key}; there is {shapes}")


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


def _find_task(activation: str) -> str:
    if activation == "sigmoid":
        raise ConfigError(
            "the network ends in a sigmoid: say task: multilabel (several classes can be true at once) or "
            "task: multiclass (the largest alone is)"
        )
    return "multiclass"


def _check_task(task: str, width: int, activation: str) -> None:
    if task not in TASKS:
        raise ConfigError(f"task must be one of {', '.join(TASKS)}, not '{task}'")
    if task == "multiclass" and width == 1:
        raise ConfigError(
            "the network gives one number a picture: say task: binary (it stands for one of two classes) or "
            "task: regression (it is a quantity)"
        )
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
