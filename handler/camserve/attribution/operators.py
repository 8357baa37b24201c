"""Watching or replacing operators below autograd."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class OperatorMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that does not load torch's compiler."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import torch._dynamo to keep it out of a mode: seconds of a worker's start and 100 MB."""
        return False
