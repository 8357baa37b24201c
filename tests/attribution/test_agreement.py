"""The libraries people know draw the same maps: computed here, by the libraries themselves.

Run with ``-s`` to see the largest difference of every comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from camserve.answer.compat import pytorch_grad_cam_view
from references import (
    CASES,
    SMALL,
    captum_map,
    case_of,
    gradcam_pass,
    objectives_of,
    ours,
    output_of,
    pytorch_grad_cam_map,
    torchcam_map,
)
from small_networks import every_device

AGREES = 1e-5  # of the largest value of a raw map
STEPS = 10  # of integrated gradients: captum takes the same ones
# DenseNet's ReLU edits the activation in place after the libraries' hooks have kept a reference to it.
EDITED_LATER = "densenet"


@pytest.fixture(scope="module")
def ledger() -> Iterator[dict[str, float]]:
    found: dict[str, float] = {}
    yield found
    print("\n\nlargest difference of raw maps, relative to the largest value")
    for title, largest in sorted(found.items()):
        print(f"  {largest:8.1e}  {title}")


def difference(found: Tensor, theirs: Tensor) -> float:
    theirs = theirs.to(found).reshape(found.shape)
    assert theirs.any()
    return float((found - theirs).abs().max() / theirs.abs().max())


PYTORCH_GRAD_CAM = {
    "gradcam": "GradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
}
OTHERWISE = {  # disagreements with tests of their own, below
    *((EDITED_LATER, method) for method in ("gradcam", "xgradcam", "eigencam")),
    ("vit", "hirescam"),
}
TORCHCAM = {"gradcam": "GradCAM", "layercam": "LayerCAM", "xgradcam": "XGradCAM"}


@every_device
def test_pytorch_grad_cam_draws_the_same(device: str, ledger: dict[str, float], subtests: pytest.Subtests) -> None:
    for name in CASES:
        for method, kind in PYTORCH_GRAD_CAM.items():
            if (name, method) in OTHERWISE:
                continue
            with subtests.test(f"{name}, {method}"):
                found, theirs = ours(method, name, device), pytorch_grad_cam_map(kind, name, device).to(device)
                if method.startswith("eigen"):  # their sign is whatever the SVD gave
                    theirs = theirs * (found * theirs).sum(dim=(1, 2), keepdim=True).sign()
                ledger[f"{method}: {name}, pytorch-grad-cam"] = largest = difference(found, theirs)
                assert largest < AGREES


@every_device
def test_torchcam_draws_the_same(device: str, ledger: dict[str, float], subtests: pytest.Subtests) -> None:
    for name in CASES:
        for method, kind in TORCHCAM.items():
            if name == EDITED_LATER and method != "layercam":
                continue
            with subtests.test(f"{name}, {method}"):
                found = ours(method, name, device).clamp(min=0)
                ledger[f"{method}: {name}, torchcam"] = largest = difference(found, torchcam_map(kind, name, device))
                assert largest < AGREES


@every_device
def test_captum_draws_the_same_gradcam(device: str, ledger: dict[str, float], subtests: pytest.Subtests) -> None:
    for name in CASES:
        if name == "vit":  # captum expects channels where tokens are
            continue
        with subtests.test(name):
            theirs = captum_map("LayerGradCam", name, device)
            ledger[f"gradcam: {name}, captum"] = largest = difference(ours("gradcam", name, device), theirs)
            assert largest < AGREES


@every_device
def test_the_compatible_view_is_what_users_of_pytorch_grad_cam_see(
    device: str, ledger: dict[str, float], subtests: pytest.Subtests
) -> None:
    for name in CASES:
        with subtests.test(name):
            view = gradcam_pass(name, device).view
            size = (view.shape[1], view.shape[2])
            their_raw = pytorch_grad_cam_map("GradCAM", name, device)
            assert float((pytorch_grad_cam_view(their_raw, size) - view).abs().max()) < 1e-6
            if name == EDITED_LATER:
                continue
            output, objectives = output_of(name, device), objectives_of(name, device)
            weights = output.gradients(objectives).double().mean(dim=(2, 3), keepdim=True)
            exact_raw = (weights * output.activations_of(objectives).double()).sum(dim=1)
            exact = pytorch_grad_cam_view(exact_raw, size).cpu()
            found = pytorch_grad_cam_view(ours("gradcam", name, device), size).cpu()
            ledger[f"compat: {name}, from exact arithmetic"] = largest = float((found - exact).abs().max())
            rounding = float((view - exact).abs().max())
            ledger[f"compat: {name}, pytorch-grad-cam from exact arithmetic"] = rounding
            ledger[f"compat: {name}, pytorch-grad-cam"] = apart = float((found - view).abs().max())
            assert largest < 1e-6
            assert apart < 1e-6 + (rounding if rounding > 1e-6 else 0)  # theirs alone is 1.3e-6 off on SqueezeNet


# Where the libraries differ from us, from each other, or from their paper


def test_others_read_the_activation_after_a_later_in_place_edit() -> None:
    output, objectives = output_of(EDITED_LATER, "cpu"), objectives_of(EDITED_LATER, "cpu")
    edited = output.activations.clamp(min=0)
    # pytorch-grad-cam: the edited activation beside the gradient of the unedited one
    weights = output.gradients(objectives).mean(dim=(2, 3), keepdim=True)
    theirs = pytorch_grad_cam_map("GradCAM", EDITED_LATER)
    assert difference((weights * edited).sum(dim=1), theirs) < AGREES
    # torchcam: both of the edited one, so it explains the ReLU's output instead of the layer's
    linear = case_of(EDITED_LATER, "cpu").network.classifier.weight[objectives.classes[:, 0]].detach()
    after = (linear[:, :, None, None] / edited[0, 0].numel() * edited).sum(dim=1)
    assert difference(after.clamp(min=0), torchcam_map("GradCAM", EDITED_LATER)) < AGREES
    assert difference(ours("gradcam", EDITED_LATER), theirs) > 0.1


def test_pytorch_grad_cam_shows_rounding_errors_where_hirescam_is_zero() -> None:
    theirs = pytorch_grad_cam_map("HiResCAM", "vit")
    assert theirs.any()
    assert theirs.abs().max() < 1e-5 * pytorch_grad_cam_map("GradCAM", "vit").abs().max()
    assert not ours("hirescam", "vit").any()


def weighted_map(name: str, alphas: Tensor) -> Tensor:
    """Sum the activations by each channel's positive gradients times ``alphas``, in float64."""
    output, objectives = output_of(name, "cpu"), objectives_of(name, "cpu")
    weights = (alphas * output.gradients(objectives).double().clamp(min=0)).sum(dim=(2, 3), keepdim=True)
    return (weights * output.activations_of(objectives).double()).sum(dim=1)


def equation_19(name: str, epsilon: float) -> Tensor:
    output, objectives = output_of(name, "cpu"), objectives_of(name, "cpu")
    gradients = output.gradients(objectives).double()
    square, mass = gradients**2, output.activations_of(objectives).double().sum(dim=(2, 3), keepdim=True)
    alphas = torch.where(square > 0, square / (2 * square + mass * gradients**3 + epsilon), 0.0)
    return weighted_map(name, alphas)


def test_gradcam_plus_plus_is_equation_19_itself(ledger: dict[str, float], subtests: pytest.Subtests) -> None:
    for name in CASES:
        with subtests.test(name):
            found = ours("gradcam++", name).double()
            assert difference(found, equation_19(name, 0.0)) < AGREES
            theirs = pytorch_grad_cam_map("GradCAMPlusPlus", name)
            one, other = (raw.clamp(min=0).flatten() for raw in (found, theirs))
            ledger[f"gradcam++: {name}, 1 - correlation with pytorch-grad-cam"] = 1 - np.corrcoef(one, other)[0, 1]
            if name == EDITED_LATER:
                continue
            # pytorch-grad-cam: an epsilon beside squares that may be smaller than it
            assert difference(equation_19(name, 1e-6), theirs) < AGREES
            # torchcam 0.5: its division works on a copy, so that alpha stays the square of the gradient
            square = output_of(name, "cpu").gradients(objectives_of(name, "cpu")).double() ** 2
            undivided, also = weighted_map(name, square).clamp(min=0), torchcam_map("GradCAMpp", name)
            assert difference(undivided, also) < AGREES
            correlation = np.corrcoef(one, also.flatten())[0, 1]
            ledger[f"gradcam++: {name}, 1 - correlation with torchcam"] = 1 - correlation


# Methods that run the tail or the network again


@every_device
def test_pytorch_grad_cam_ablates_the_same(device: str, ledger: dict[str, float], subtests: pytest.Subtests) -> None:
    for name in SMALL:
        with subtests.test(name):
            scores = objectives_of(name, device).values(output_of(name, device).scores)  # by which they divide
            found = ours("ablationcam", name, device) / scores[:, None, None]
            largest = difference(found, pytorch_grad_cam_map("AblationCAM", name, device))
            ledger[f"ablationcam: {name}, pytorch-grad-cam"] = largest
            assert largest < AGREES


@every_device
def test_torchcam_scores_the_same(device: str, ledger: dict[str, float], subtests: pytest.Subtests) -> None:
    for name in SMALL:
        with subtests.test(name):
            found = ours("scorecam", name, device).clamp(min=0)
            ledger[f"scorecam: {name}, torchcam"] = largest = difference(found, torchcam_map("ScoreCAM", name, device))
            assert largest < AGREES


def test_pytorch_grad_cam_scores_masks_that_it_enlarges_by_their_corners(
    ledger: dict[str, float], subtests: pytest.Subtests
) -> None:
    for name in SMALL:
        with subtests.test(name):
            largest = difference(ours("scorecam", name), pytorch_grad_cam_map("ScoreCAM", name))
            ledger[f"scorecam: {name}, pytorch-grad-cam (align_corners=True)"] = largest
            assert 1e-4 < largest < 0.05


CAPTUM: Mapping[str, tuple[str, dict[str, Any]]] = {
    "gradient": ("Saliency", {"abs": False}),
    "input_x_gradient": ("InputXGradient", {}),
    "guided_backprop": ("GuidedBackprop", {}),
    "deconvnet": ("Deconvolution", {}),
    "guided_gradcam": ("GuidedGradCam", {"interpolate_mode": "bilinear"}),
    "integrated_gradients": ("IntegratedGradients", {"n_steps": STEPS}),
}


@every_device
def test_captum_draws_the_same_by_pixel(
    device: str, ledger: dict[str, float], subtests: pytest.Subtests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("camserve.attribution.methods.gradient"), "STEPS", STEPS)
    for name in ("resnet", "one linear layer"):
        for method, (kind, options) in CAPTUM.items():
            with subtests.test(f"{name}, {method}"):
                largest = difference(ours(method, name, device), captum_map(kind, name, device, **options))
                ledger[f"{method}: {name}, captum"] = largest
                assert largest < AGREES


def test_captum_guides_only_through_modules_of_the_class_relu() -> None:
    name = "lite0 real weights, head"  # whose activations are ReLU6
    plain = captum_map("Saliency", name, abs=False)
    assert difference(captum_map("GuidedBackprop", name), plain) < AGREES
    assert difference(ours("gradient", name), plain) < AGREES
    assert difference(ours("guided_backprop", name), plain) > 0.1
