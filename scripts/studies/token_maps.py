"""Where maps of a vision transformer point, from served answers: against the centre of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from camserve.build.archive import build_archive
from camserve.build.recipe import Recipe
from camserve.evaluate.photos import LabelledPhoto
from camserve.input_spec import InputSpec
from camserve.intake.accept import read_pixels
from camserve.intake.preprocess import normalise
from camserve.network.factory import build_network
from camserve.settings import Limits, ModelSpec
from camserve.values import Progress
from labelled_photos import read_boxed_photos
from map_measures import Part

TOKENS_NAME = "dino"
HALVES = (TOKENS_NAME, "dino_1")  # archives, by the half of the photos that their head is fitted on
METHODS: tuple[str, ...] = (
    *("layercam", "gradcam", "hirescam", "attention", "gradcam++", "xgradcam", "eigengradcam", "eigencam"),
    *("gradcam+", "gradcam-", "vit_reciprocam", "scorecam", "ablationcam", "gradient", "input_x_gradient"),
    *("smoothgrad", "integrated_gradients"),
)
MODEL = "vit_small_patch14_dinov2"
SIDE, RESIZED = 224, 256  # pixels
INPUT = InputSpec(resize=RESIZED, crop=SIDE, interpolation="bicubic")
GROUPS = ("bird", "reptile", "dog", "mammal", "fish", "arthropod", "thing")  # of ImageNet's classes, by their order
RANGES = {
    "bird": ((7, 25), (80, 101), (127, 147)),
    "reptile": ((25, 69),),
    "dog": ((151, 269),),
    "mammal": ((269, 300), (330, 389)),
    "fish": ((0, 7), (389, 398)),
    "arthropod": ((69, 80), (300, 327)),
    "thing": ((398, 1000),),
}
STEPS, DECAY = 300, 1e-2
BATCH = 8
THING = GROUPS.index("thing")


@dataclass(frozen=True)
class Photo:
    """One photo with its group and the boxes of its object."""

    labelled: LabelledPhoto
    is_small: bool


def fit_tokens(folder: Path, backbone: Path, keep: Path, sample: str, report: Progress, half: int = 0) -> Part:
    """Fit a head on every second photo from number ``half`` on; return its archive, in ``keep``, and the others."""
    name = HALVES[half]
    photos, archive = read_groups(folder), keep / f"{name}.mar"
    if not archive.exists():
        features, groups = _features(backbone, photos), torch.tensor([photo.labelled.label for photo in photos])
        weight, bias = _fit(features[half::2], groups[half::2])
        file = keep / f"{name}.safetensors"
        save_file({**load_file(backbone), "head.weight": weight.contiguous(), "head.bias": bias.contiguous()}, file)
        (keep / "groups.txt").write_text("\n".join(GROUPS))
        args = {"model_name": MODEL, "img_size": SIDE, "num_classes": len(GROUPS)}
        recipe = Recipe(
            name, str(file), "timm:create_model", args=args, labels=str(keep / "groups.txt"), preprocess=INPUT,
            methods=METHODS, samples=(sample,),
        )  # fmt: skip
        build_archive(recipe, keep, report, fresh_process=False)
    others = photos[1 - half :: 2]
    return Part(archive, [photo.labelled for photo in others], [photo.is_small for photo in others], THING)


def read_groups(folder: Path) -> list[Photo]:
    """Return the photos of a folder of images/ and labels.csv whose class is in one of the groups."""
    photos = read_boxed_photos(folder)
    labelled = zip(photos.labelled, photos.is_small)
    return [Photo(replace(one, label=group), small) for one, small in labelled if (group := _group(one.label)) >= 0]


def _group(index: int) -> int:
    """Return the group of a class of ImageNet, -1: none."""
    return next((at for at, name in enumerate(GROUPS) if any(low <= index < high for low, high in RANGES[name])), -1)


@torch.no_grad()
def _features(backbone: Path, photos: Sequence[Photo]) -> Tensor:
    args = {"model_name": MODEL, "img_size": SIDE, "num_classes": 0}
    network: Any = build_network(ModelSpec("timm:create_model", args), Path())
    network.load_state_dict(load_file(backbone))
    network.eval()
    found = []
    for start in range(0, len(photos), BATCH):
        batch = photos[start : start + BATCH]
        rows = [read_pixels(photo.labelled.path.read_bytes(), INPUT, Limits()) for photo in batch]
        found.append(network(normalise(rows, INPUT, torch.device("cpu")).contiguous()))
    return torch.cat(found)


def _fit(features: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a logistic regression with decay, by L-BFGS."""
    weight = torch.zeros(len(GROUPS), features.shape[1], requires_grad=True)
    bias = torch.zeros(len(GROUPS), requires_grad=True)
    steps = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        steps.zero_grad()
        value = functional.cross_entropy(features @ weight.T + bias, groups) + DECAY / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    steps.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
