"""CAM."""

from __future__ import annotations

from torch import Tensor

from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.methods.gradcam import weigh
from camserve.attribution.objectives import Objectives
from camserve.errors import ConfigError


def cam(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Weigh each channel by the classifier's own weight (Zhou et al. 2016, arXiv:1512.04150, equation 2).

    ConfigError: as for ``cam_weights``.
    """
    return weigh(cam_weights(output, objectives), output, objectives)


def cam_weights(output: LayerOutput, objectives: Objectives) -> Tensor:
    """Return the classifier's own weight of each channel, (T, K).

    ConfigError: what follows the layer is more than pooling and one linear layer.
    """
    head = output.head
    if head is None:
        raise ConfigError(
            f"method 'cam' needs '{output.layer.name}' to be followed by average pooling and one linear layer alone; "
            "'gradcam' is the same map where that holds, and works elsewhere"
        )
    return head.channel_weights(objectives)
