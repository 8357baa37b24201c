"""Labelled photos on disk: a folder a class, CSV, COCO and Pascal VOC annotations."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from camserve.build.baseline.photos import list_images
from camserve.errors import ConfigError, UnknownClass, quote
from camserve.evaluate.masks import ObjectMask, mask_of_coco
from camserve.labels import Labels
from camserve.values import Box, Progress

CORNERS = ("x0", "y0", "x1", "y1")
FORMS = "a folder with one sub-folder a class or with Annotations/, a CSV of path and label, or COCO's JSON"


@dataclass(frozen=True)
class LabelledPhoto:
    """One photo and one class that is in it."""

    path: Path
    label: int  # class index
    boxes: tuple[Box, ...] = ()  # of the objects of this class, in pixels of the upright picture
    masks: tuple[ObjectMask, ...] = ()  # of the same


@dataclass(frozen=True)
class _Object:
    """One line of an annotation."""

    path: Path
    label: str
    box: Box | None = None
    mask: ObjectMask | None = None


def read_photos(data: Path, labels: Labels, report: Progress) -> list[LabelledPhoto]:
    """Return the photos that ``data`` names, by path; a photo of several classes comes once for each.

    Objects of COCO and VOC whose class the model does not have are left out, and ``report`` is given their number.
    ConfigError: nothing fits, a class is unknown, or a file is missing.
    """
    found, is_foreign = _read(data)
    known: dict[tuple[Path, int], tuple[list[Box], list[ObjectMask]]] = {}
    unknown: set[str] = set()
    left_out = 0
    things = list(found)
    for thing in things:
        try:
            index = labels.find(thing.label)
        except UnknownClass as error:
            if not is_foreign:
                raise ConfigError(f"{data}: {quote(thing.path.name)}: {error}") from None
            unknown.add(thing.label)
            left_out += 1
            continue
        if thing.box is not None and not (thing.box[0] < thing.box[2] and thing.box[1] < thing.box[3]):
            corners = ", ".join(f"{corner:g}" for corner in thing.box)
            raise ConfigError(f"{data}: {quote(thing.path.name)}: the box {corners} has no inside")
        boxes, masks = known.setdefault((thing.path, index), ([], []))
        boxes.extend([] if thing.box is None else [thing.box])
        masks.extend([] if thing.mask is None else [thing.mask])
    if left_out:
        report(
            f"{left_out} of {len(things)} objects are of {len(unknown)} classes that the model does not have: left out"
        )
    if not known:
        raise ConfigError(f"{data} holds no labelled photos of the model's classes: give {FORMS}")
    if missing := next((path for path, _ in known if not path.is_file()), None):
        raise ConfigError(f"{data} names {missing}, which is not there: paths are relative to its folder")
    return [
        LabelledPhoto(path, label, tuple(boxes), tuple(masks))
        for (path, label), (boxes, masks) in sorted(known.items(), key=lambda item: item[0])
    ]


def _read(data: Path) -> tuple[Iterable[_Object], bool]:
    """Return the objects, and whether they are another data set's, whose classes may be others."""
    try:
        if data.suffix == ".csv":
            return _of_csv(data), False
        if data.suffix == ".json":
            return list(_of_coco(data)), True
        if (data / "Annotations").is_dir():
            return list(_of_voc(data)), True
        if data.is_dir():
            return _of_folders(data), False
    except (OSError, KeyError, TypeError, ArithmeticError, ValueError, csv.Error, ElementTree.ParseError) as error:
        raise ConfigError(f"{data} cannot be read: {type(error).__name__}: {error}; give {FORMS}") from None
    raise ConfigError(f"{data} is not there, or none of these: {FORMS}")


def _of_folders(data: Path) -> list[_Object]:
    return [_Object(path, path.relative_to(data).parts[0]) for path in list_images(data) if path.parent != data]


def _of_csv(data: Path) -> list[_Object]:
    with data.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"path", "label"} <= set(rows[0]):
        raise ConfigError(f"{data} must have the columns path and label, and may have {', '.join(CORNERS)}, mask")
    short = next((number for number, row in enumerate(rows, 1) if not row["path"] or not row["label"]), None)
    if short is not None:
        raise ConfigError(f"{data}: row {short} below the header lacks its path or its label")
    return [_Object(data.parent / row["path"], row["label"], _box_of(row), _mask_of(row, data.parent)) for row in rows]


def _mask_of(row: Mapping[str, str | None], folder: Path) -> ObjectMask | None:
    name = row.get("mask")
    if name and not (folder / name).is_file():
        raise ValueError(f"the mask {name} is not there")
    return ObjectMask(file=folder / name) if name else None


def _box_of(row: Mapping[str, str | None]) -> Box | None:
    corners = [row.get(name) or "" for name in CORNERS]
    if not any(corners):
        return None
    left, top, right, bottom = map(float, corners)
    return left, top, right, bottom


def _of_coco(data: Path) -> Iterator[_Object]:
    """Yield the objects of an instances file; its images lie beside it, or in images/ there.

    KeyError, TypeError, ValueError: it is none.
    """
    content: Any = json.loads(data.read_text(encoding="utf-8"))
    names = {category["id"]: str(category["name"]) for category in _entries(content, "categories")}
    files = {image["id"]: _image_of(data.parent, image["file_name"]) for image in _entries(content, "images")}
    for thing in _entries(content, "annotations"):
        if not thing.get("iscrowd"):
            left, top, width, height = map(float, thing["bbox"])
            box, mask = (left, top, left + width, top + height), mask_of_coco(thing.get("segmentation") or ())
            yield _Object(files[thing["image_id"]], names[thing["category_id"]], box, mask)


def _entries(content: Any, name: str) -> list[Mapping[str, Any]]:
    found = content[name]
    if not isinstance(found, list) or not all(isinstance(entry, Mapping) for entry in found):
        raise ValueError(f"its {name} are no list of objects")
    return found


def _image_of(folder: Path, name: str) -> Path:
    places: Sequence[Path] = [
        folder / name,
        folder / "images" / name,
        folder.parent / name,
        folder.parent / "images" / name,
    ]
    return next((place for place in places if place.is_file()), places[0])


def _of_voc(data: Path) -> Iterator[_Object]:
    for file in sorted((data / "Annotations").glob("*.xml")):
        root = ElementTree.parse(file).getroot()
        picture = data / "JPEGImages" / (root.findtext("filename") or f"{file.stem}.jpg")
        drawn = data / "SegmentationObject" / f"{picture.stem}.png"
        has_masks = drawn.is_file()
        for number, thing in enumerate(root.iter("object"), 1):
            corners = [float(thing.findtext(f"bndbox/{name}") or "nan") for name in ("xmin", "ymin", "xmax", "ymax")]
            # Its pixels are counted from 1, and the last one belongs to the box.
            box = (corners[0] - 1, corners[1] - 1, corners[2], corners[3])
            mask = ObjectMask(file=drawn, value=number) if has_masks else None
            yield _Object(picture, thing.findtext("name") or "", box, mask)
