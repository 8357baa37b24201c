"""Where maps of a vision transformer point, from served answers: against the centre of the picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from camserve.build.archive import build_archive
from camserve.build.recipe import Recipe
from camserve.build.unpack import open_archive
from camserve.input_spec import InputSpec
from camserve.intake.accept import read_pixels
from camserve.intake.preprocess import normalise
from camserve.network.factory import build_network
from camserve.settings import Limits, ModelSpec
from camserve.values import Progress, RawRequest

METHODS = ("layercam", "gradcam", "hirescam", "attention", "gradcam++", "xgradcam", "eigengradcam", "eigencam")
MODEL = "vit_small_patch14_dinov2"
SIDE, RESIZED = 224, 256  # pixels
INPUT = InputSpec(resize=RESIZED, crop=SIDE, interpolation="bicubic")
SMALL = 0.5  # of the centre crop that the boxes cover at most
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
DRAWS = 2000
BATCH = 8


@dataclass(frozen=True)
class Photo:
    """One photo with its group and the boxes of its object, in pixels of the network's input."""

    content: bytes
    group: int
    boxes: Sequence[Sequence[float]]
    is_small: bool


@dataclass(frozen=True)
class Pointing:
    """What P maps of each method hit."""

    accuracy: float
    hits: dict[str, np.ndarray]  # (P,) 0 or 1; "centre" too
    energy: dict[str, np.ndarray]  # (P,) share of the map inside the boxes; "uniform" too


def measure_tokens(folder: Path, backbone: Path, work: Path, sample: str, report: Progress) -> Pointing:
    """Fit a head on each half of the photos and explain the other half's photos of small objects."""
    photos = read_boxes(folder)
    features = _features(backbone, photos)
    hits: dict[str, list[float]] = {}
    energy: dict[str, list[float]] = {}
    right: list[bool] = []
    groups = torch.tensor([photo.group for photo in photos])
    for half in (0, 1):
        fitted = torch.arange(len(photos)) % 2 == half
        weight, bias = _fit(features[fitted], groups[fitted])
        right += ((features @ weight.T + bias).argmax(dim=1) == groups)[~fitted].tolist()
        file = work / f"dino{half}.safetensors"
        save_file({**load_file(backbone), "head.weight": weight.contiguous(), "head.bias": bias.contiguous()}, file)
        (work / "groups.txt").write_text("\n".join(GROUPS))
        args = {"model_name": MODEL, "img_size": SIDE, "num_classes": len(GROUPS)}
        recipe = Recipe(
            "dino", str(file), "timm:create_model", args=args, labels=str(work / "groups.txt"), preprocess=INPUT,
            methods=METHODS, samples=(sample,),
        )  # fmt: skip
        archive = build_archive(recipe, work, report, fresh_process=False)
        chosen = [photo for number, photo in enumerate(photos) if number % 2 != half and photo.is_small]
        with open_archive(archive) as pipeline:
            for photo in chosen:
                fields = {"target": f"index:{photo.group}", "explain": True}
                rows = [RawRequest(photo.content, {**fields, "method": method}) for method in METHODS]
                for response in pipeline.answer(rows):
                    _judge(json.loads(response.body)["explanations"][0], photo, hits, energy)
                hits.setdefault("centre", []).append(_inside(SIDE / 2, SIDE / 2, photo.boxes))
                energy.setdefault("uniform", []).append(float(_mask(photo.boxes).mean()))
    return Pointing(float(np.mean(right)), _arrays(hits), _arrays(energy))


def _arrays(table: dict[str, list[float]]) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in table.items()}


def read_boxes(folder: Path) -> list[Photo]:
    """Return the photos of a folder of images/ and labels.csv whose class is in one of the groups."""
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        photos = [_photo(folder, row) for row in csv.DictReader(file)]
    return [photo for photo in photos if photo is not None]


def _photo(folder: Path, row: dict[str, str]) -> Photo | None:
    index = int(row["class_index"])
    found = [name for name in GROUPS if any(low <= index < high for low, high in RANGES[name])]
    if not found:
        return None
    across, down = ((RESIZED - SIDE) / 2 + (int(row[name]) - RESIZED) / 2 for name in ("width", "height"))
    boxes = [[float(number) for number in box.split()] for box in row["boxes_x1y1x2y2"].split(";") if box]
    moved = [[left - across, top - down, right - across, bottom - down] for left, top, right, bottom in boxes]
    is_small = float(row["box_fraction_of_centre_224"] or 1) <= SMALL
    content = (folder / "images" / Path(row["file"]).name).read_bytes()
    return Photo(content, GROUPS.index(found[0]), moved, is_small)


@torch.no_grad()
def _features(backbone: Path, photos: Sequence[Photo]) -> Tensor:
    args = {"model_name": MODEL, "img_size": SIDE, "num_classes": 0}
    network: Any = build_network(ModelSpec("timm:create_model", args), Path())
    network.load_state_dict(load_file(backbone))
    network.eval()
    found = []
    for start in range(0, len(photos), BATCH):
        rows = [read_pixels(photo.content, INPUT, Limits()) for photo in photos[start : start + BATCH]]
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


def _judge(
    explanation: dict[str, Any], photo: Photo, hits: dict[str, list[float]], energy: dict[str, list[float]]
) -> None:
    grid = torch.tensor(explanation["grid"])[None, None]
    values = functional.interpolate(grid, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0]
    down, across = divmod(int(values.argmax()), SIDE)
    blank = float(values.max()) == 0
    hits.setdefault(explanation["method"], []).append(0.0 if blank else _inside(across, down, photo.boxes))
    inside = 0.0 if blank else float((values * _mask(photo.boxes)).sum() / values.sum())
    energy.setdefault(explanation["method"], []).append(inside)


def _inside(across: float, down: float, boxes: Sequence[Sequence[float]]) -> float:
    return float(any(left <= across <= right and top <= down <= bottom for left, top, right, bottom in boxes))


def _mask(boxes: Sequence[Sequence[float]]) -> Tensor:
    mask = torch.zeros(SIDE, SIDE)
    for left, top, right, bottom in boxes:
        mask[max(0, round(top)) : max(0, round(bottom)), max(0, round(left)) : max(0, round(right))] = 1
    return mask


def interval(values: np.ndarray) -> str:
    """Return a mean with its 95 % bootstrap interval."""
    drawn = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return f"{values.mean():.2f} [{low:.2f} {high:.2f}]"
