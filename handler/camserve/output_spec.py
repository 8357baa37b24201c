"""The settings of an archive's outputs: which numbers of what the network returns are scores, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from camserve.errors import quote
from camserve.labels import Labels
from camserve.strict import require, require_choice, require_ranges

TASKS = ("multiclass", "multilabel", "binary", "regression")
WITH_SCORES_BEFORE = ("softmax", "log_softmax", "sigmoid")  # activations whose input is the score
NAME = re.compile(r"[A-Za-z0-9_-]{0,40}")
ACTIVATIONS = ("none", *WITH_SCORES_BEFORE, "probabilities")


@dataclass(frozen=True)
class OutputSpec:
    """One output of a network: where its scores are in what the network returns, and what they mean."""

    select: str = ""  # a path into what is returned, such as logits, 1 or heads.color; "": it is one tensor
    # What stands at the network's end, and makes probabilities of scores. probabilities: something that has no score
    # before it, as the average of several softmaxes; the score is then their logarithm, or their logit.
    activation: str = "none"
    call: int = 0  # which call of that function, of those whose result is shaped like scores
    task: str = "multiclass"  # softmax; multilabel: a sigmoid each; binary: one logit; regression: quantities
    threshold: float = 0.5  # of probability, above which a multilabel class counts as predicted
    labels: str = "labels.txt"  # a file of the archive, one name a line
    units: tuple[Optional[str], ...] = ()  # of the quantities; null: it has none
    name: str = ""  # by which a request asks for it, where there are several

    def __post_init__(self) -> None:
        require_choice(self.activation, ACTIVATIONS, "activation")
        require_choice(self.task, TASKS, "task")
        require(NAME.fullmatch(self.name) is not None, f"head {quote(self.name)}: a name has letters, digits, _ and -")
        require_ranges(self, {"threshold": (0, 1)})
        require(self.is_quantity or not self.units, f"units are for task regression, not {self.task}")

    @property
    def is_quantity(self) -> bool:
        """Whether the scores are values as they stand: they have no probabilities, and no order by size."""
        return self.task == "regression"

    @property
    def exclusive(self) -> bool:
        """Whether one class alone is true, so that probabilities are a softmax; else each has a sigmoid of its own."""
        return self.task == "multiclass" and self.activation != "sigmoid"


@dataclass(frozen=True)
class Head:
    """One output of a loaded network, and where its scores lie among those of all outputs."""

    spec: OutputSpec
    labels: Labels
    start: int = 0  # the column of its first score

    def __post_init__(self) -> None:
        """Refuse units that do not go with the names (ConfigError)."""
        count = len(self.spec.units)
        require(count in (0, len(self.labels)), f"units: {count} for {len(self.labels)} outputs; a null is no unit")

    def unit(self, index: int) -> str | None:
        """Return the unit of one quantity; None: it has none."""
        return self.spec.units[index] if self.spec.units else None

    @property
    def columns(self) -> slice:
        """The columns of its scores among those of all outputs."""
        return slice(self.start, self.start + len(self.labels))


def line_up(specs: Sequence[OutputSpec], labels: Sequence[Labels]) -> tuple[Head, ...]:
    """Return the heads of a network whose scores stand side by side, from its outputs and their labels."""
    starts = [sum(map(len, labels[:number])) for number in range(len(labels))]
    return tuple(map(Head, specs, labels, starts))
