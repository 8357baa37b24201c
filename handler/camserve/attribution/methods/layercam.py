"""LayerCAM."""

from __future__ import annotations

from torch import Tensor

from camserve.attribution.capture import Seen
from camserve.values import Targets


def layercam(seen: Seen, targets: Targets) -> Tensor:
    """Weigh each position by its own gradient where that is positive (Jiang et al. 2021)."""
    return (seen.gradients(targets).clamp(min=0) * seen.activations_of(targets)).sum(dim=1)
