"""The softmax or sigmoid at a network's end: what it was given are the scores, where the network returns probabilities.

It may be a module or a call of a function, in code that nobody can edit, or an operator of an exported program. So the
calls themselves are watched while the network runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

# What torch calls these functions, as methods, functions and operators of exported programs.
ACTIVATIONS = {
    "softmax": "softmax",
    "log_softmax": "log_softmax",
    "sigmoid": "sigmoid",
    "special_expit": "sigmoid",
    "special_softmax": "softmax",
    "special_log_softmax": "log_softmax",
}


@dataclass(frozen=True)
class ActivationCall:
    """One call of a softmax, log-softmax or sigmoid."""

    kind: str  # of the values of ACTIVATIONS
    given: Tensor
    result: Tensor


class WatchActivations(TorchFunctionMode):
    """Keep, while it is switched on, the calls whose result is shaped like scores, in their order.

    An attention's softmax has more axes than scores have.
    """

    def __init__(self) -> None:
        """Start with no call."""
        super().__init__()
        self.calls: list[ActivationCall] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function; keep what it was given and what it gave."""
        name = getattr(func, "__name__", "").partition(".")[0]
        kind = ACTIVATIONS.get(name.strip("_"))
        if kind is None:
            return func(*args, **(kwargs or {}))
        given: Tensor = args[0] if args else next(iter((kwargs or {}).values()))
        in_place = name.endswith("_")
        before = given.clone() if in_place else given
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and all(side == 1 for side in result.shape[2:]):
            self.calls.append(ActivationCall(kind, before, result))
        return result
