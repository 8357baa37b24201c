"""LayerCAM."""

from __future__ import annotations

from torch import Tensor

from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.objectives import Objectives


def layercam(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Weigh each position by its own gradient where that is positive (Jiang et al. 2021)."""
    return (output.gradients(objectives).clamp(min=0) * output.activations_of(objectives)).sum(dim=1)
