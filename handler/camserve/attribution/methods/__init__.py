"""The family of maps: every method is the paper's few lines, one function in one file.

A method maps what a layer showed and T objectives to signed float32 maps, (T, h, w) on the layer's own
grid or (T, H, W) at the input's resolution. What the paper does after its weighted sum (ReLU,
scaling) is done once, in ``normalise_maps``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from camserve.attribution.layer_output import LayerOutput
from camserve.attribution.methods.ablationcam import ablation_weights, ablationcam
from camserve.attribution.methods.attention import attention
from camserve.attribution.methods.cam import cam, cam_weights
from camserve.attribution.methods.eigencam import eigencam, eigengradcam, orientation
from camserve.attribution.methods.excitation import cmwp
from camserve.attribution.methods.gradcam import (
    channel_weights,
    gradcam,
    gradcam_minus,
    gradcam_plus,
    negative_weights,
    positive_weights,
)
from camserve.attribution.methods.gradcamplusplus import gradcam_plus_plus, plus_plus_weights
from camserve.attribution.methods.gradient import gradient, input_x_gradient, integrated_gradients, smoothgrad
from camserve.attribution.methods.guided import deconvnet, guided_backprop, guided_gradcam
from camserve.attribution.methods.hirescam import hirescam
from camserve.attribution.methods.layercam import layercam
from camserve.attribution.methods.reciprocam import reciprocam, vit_reciprocam
from camserve.attribution.methods.scorecam import scorecam, scorecam_weights
from camserve.attribution.methods.xgradcam import xgradcam, xgradcam_weights
from camserve.attribution.objectives import Objectives


@dataclass(frozen=True)
class Method:
    """One way to draw a map, with what a reader must know of it."""

    run: Callable[[LayerOutput, Objectives], Tensor]
    source: str
    passes: str  # what one target costs beyond the prediction's own forward pass
    evidence: str | None = None  # the only kind that its map can show; None: the one that is asked for
    tape: bool = False  # runs the tail again: needs Capture.forward(pixels, tape=True)
    probes: bool = False  # looks at the network once, at its first map
    reruns: bool = False  # runs the network again: many times a plain prediction's cost
    weighted: bool = False  # two negatives, Grad-CAM's weight and an activation, make evidence
    complete: bool = False  # sums to the score less its bias where the tail is pooling and one linear layer
    weights: Callable[[LayerOutput, Objectives], Tensor] | None = None  # (T, K), where each channel has one
    gradients: bool = True  # needs gradients of the scores; False: explains networks that let none pass
    notes: Callable[[LayerOutput, Objectives], list[dict[str, float]]] | None = None  # what else a reader must know

    @property
    def slow(self) -> bool:
        """Whether it takes many passes, of the tail or of the network."""
        return self.tape or self.reruns

    @property
    def asks_pixels(self) -> bool:
        """Whether it may ask for gradients with respect to the pixels."""
        return self.reruns and self.gradients


METHODS: Mapping[str, Method] = {
    "gradcam": Method(
        gradcam,
        "Selvaraju et al. 2017, arXiv:1610.02391",
        "1 tail backward",
        weighted=True,
        complete=True,
        weights=channel_weights,
    ),
    "gradcam+": Method(
        gradcam_plus,
        "Selvaraju et al. 2017, positive weights only",
        "1 tail backward",
        weights=positive_weights,
    ),
    "gradcam-": Method(
        gradcam_minus,
        "Selvaraju et al. 2017, negative weights only",
        "1 tail backward",
        evidence="signed",
        weighted=True,
        weights=negative_weights,
    ),
    "hirescam": Method(hirescam, "Draelos and Carin 2020, arXiv:2011.08891", "1 tail backward", complete=True),
    "layercam": Method(layercam, "Jiang et al. 2021, doi:10.1109/TIP.2021.3089943", "1 tail backward"),
    "xgradcam": Method(xgradcam, "Fu et al. 2020, arXiv:2008.02312", "1 tail backward", weights=xgradcam_weights),
    "gradcam++": Method(
        gradcam_plus_plus,
        "Chattopadhyay et al. 2018, arXiv:1710.11063",
        "1 tail backward",
        weights=plus_plus_weights,
    ),
    "eigengradcam": Method(eigengradcam, "Gildenblat 2020, after arXiv:2008.00299", "1 tail backward"),
    "cam": Method(cam, "Zhou et al. 2016, arXiv:1512.04150", "none", weights=cam_weights),
    "eigencam": Method(
        eigencam, "Muhammad and Yeasin 2020, arXiv:2008.00299", "none", gradients=False, notes=orientation
    ),
    "attention": Method(attention, "Chefer et al. 2021, arXiv:2103.15679", "1 tail backward", probes=True),
    "ablationcam": Method(
        ablationcam,
        "Desai and Ramaswamy 2020, doi:10.1109/WACV45572.2020.9093360",
        "1 tail forward a channel",
        tape=True,
        weights=ablation_weights,
        gradients=False,
    ),
    "reciprocam": Method(
        reciprocam, "Byun and Lee 2022, arXiv:2209.14074", "1 tail forward a position", tape=True, gradients=False
    ),
    "vit_reciprocam": Method(
        vit_reciprocam, "Byun and Lee 2023, arXiv:2310.02588", "1 tail forward a position", tape=True, gradients=False
    ),
    "scorecam": Method(
        scorecam,
        "Wang et al. 2020, arXiv:1910.01279",
        "up to 64 forward",
        reruns=True,
        weights=scorecam_weights,
        gradients=False,
    ),
    "gradient": Method(gradient, "Simonyan et al. 2014, arXiv:1312.6034", "1 forward, 1 backward", reruns=True),
    "input_x_gradient": Method(
        input_x_gradient, "Shrikumar et al. 2016, arXiv:1605.01713", "1 forward, 1 backward", reruns=True
    ),
    "guided_backprop": Method(
        guided_backprop, "Springenberg et al. 2015, arXiv:1412.6806", "1 forward, 1 backward", reruns=True
    ),
    "deconvnet": Method(deconvnet, "Zeiler and Fergus 2014, arXiv:1311.2901", "1 forward, 1 backward", reruns=True),
    "guided_gradcam": Method(
        guided_gradcam, "Selvaraju et al. 2017, arXiv:1610.02391", "1 forward, 1 backward", reruns=True
    ),
    "smoothgrad": Method(smoothgrad, "Smilkov et al. 2017, arXiv:1706.03825", "25 forward, 25 backward", reruns=True),
    "integrated_gradients": Method(
        integrated_gradients, "Sundararajan et al. 2017, arXiv:1703.01365", "50 forward, 50 backward", reruns=True
    ),
    "cmwp": Method(cmwp, "Zhang et al. 2016, arXiv:1608.00507", "1 forward, 1 tail backward", reruns=True),
}
