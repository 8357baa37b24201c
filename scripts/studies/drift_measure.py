"""Every signal of real photos under every shift, measured by the real pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from camserve.build.baseline.measure import Collector
from camserve.errors import ConfigError
from camserve.monitor.signals import NAMES
from camserve.serving.load import load_pipeline
from camserve.serving.selftest import self_test
from camserve.settings import Settings
from camserve.values import Progress, RawRequest
from labelled_photos import Photos
from shifts import SHIFTS, Shift

BATCH = 20
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Condition:
    """Every photo's signals under one shift."""

    values: np.ndarray  # (P, S) float64, columns as in SIGNALS
    right: np.ndarray  # (P,) bool: the best class is the labelled one
    caught: bool  # the archive's self-test refuses to load with this fault


def measure_all(folder: Path, settings: Settings, photos: Photos, report: Progress) -> dict[str, Condition]:
    """Send every photo under every shift through an unpacked archive's pipeline."""
    found = {}
    for name, shift in SHIFTS.items():
        found[name] = condition = _measure(folder, settings, photos, shift)
        report(f"{name}: accuracy {condition.right.mean():.3f}{', caught by the self-test' * condition.caught}")
    return found


def _measure(folder: Path, settings: Settings, photos: Photos, shift: Shift) -> Condition:
    changed = dataclasses.replace(settings, input=shift.input(settings.input))
    pipeline = load_pipeline(folder, changed, "study", "1.0", CPU)
    collector = Collector()
    pipeline.monitor.report_to(collector)
    for rows in _batches(photos.paths, shift):
        pipeline.answer(rows)
    order = [int(request.request_id) for rows in collector.batches for request in rows.requests]
    if sorted(order) != list(range(len(photos.paths))):
        raise ConfigError(f"only {len(order)} of {len(photos.paths)} photos were answered")
    back = np.argsort(order)
    values = np.concatenate([rows.values for rows in collector.batches])[back]
    classes = np.concatenate([rows.classes for rows in collector.batches])[back]
    return Condition(values, classes == photos.classes, not _loads(folder, changed))


def _batches(paths: Sequence[Path], shift: Shift) -> Iterator[list[RawRequest]]:
    for start in range(0, len(paths), BATCH):
        numbered = enumerate(paths[start : start + BATCH], start)
        yield [RawRequest(_encoded(path, shift), request_id=str(number)) for number, path in numbered]


def _encoded(path: Path, shift: Shift) -> bytes:
    with Image.open(path) as opened:
        picture = shift.picture(ImageOps.exif_transpose(opened).convert("RGB"))
    buffer = BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _loads(folder: Path, settings: Settings) -> bool:
    """Say whether the self-test lets these settings load; the hash over them would let none."""
    try:
        self_test(load_pipeline(folder, settings, "study", "1.0", CPU), folder, CPU)
    except ConfigError:
        return False
    return True


def save(conditions: Mapping[str, Condition], path: Path) -> None:
    """Keep what was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"{name}/{key}": value for name, condition in conditions.items() for key, value in vars(condition).items()
    }
    np.savez_compressed(path, names=np.array(NAMES), **arrays)


def load(path: Path) -> dict[str, Condition]:
    """Read what was measured before. ConfigError: with other signals."""
    with np.load(path) as kept:
        if tuple(kept["names"]) != NAMES:
            raise ConfigError(f"{path} was measured with other signals: delete it")
        return {
            name: Condition(kept[f"{name}/values"], kept[f"{name}/right"], bool(kept[f"{name}/caught"]))
            for name in SHIFTS
        }
