"""Pictures with masks of what is to be seen in them: drawn colours and textures, or a person's own photos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from camserve.errors import ConfigError

PICTURES_EACH = 8  # drawn pictures of a concept
MOST_PHOTOS = 1000  # of a person's folder: all their feature maps are held together
MOST_MASKS = 50_000  # photos times concepts: their masks are held together too, 3 kB each
PHOTOS = (".jpg", ".jpeg", ".png", ".webp")
COLORS = {
    "red": (0.85, 0.1, 0.1),
    "green": (0.1, 0.7, 0.15),
    "blue": (0.1, 0.2, 0.85),
    "yellow": (0.9, 0.85, 0.1),
    "orange": (0.95, 0.5, 0.05),
    "purple": (0.55, 0.1, 0.7),
    "black": (0.03, 0.03, 0.03),
    "white": (0.97, 0.97, 0.97),
}
# From the pixel's row and column and a period, all in pixels: whether it is light.
TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "horizontal stripes": lambda y, x, period: (y + 0 * x) % period < period / 2,
    "vertical stripes": lambda y, x, period: (x + 0 * y) % period < period / 2,
    "diagonal stripes": lambda y, x, period: (x + y) % (1.4 * period) < 0.7 * period,
    "checks": lambda y, x, period: (y % period < period / 2) ^ (x % period < period / 2),
    "dots": lambda y, x, period: (y % period - period / 2) ** 2 + (x % period - period / 2) ** 2 < period**2 / 10,
    "grid": lambda y, x, period: (y % period < period / 5) | (x % period < period / 5),
}


@dataclass(frozen=True)
class ConceptPicture:
    """One picture, and where each concept is in it; what is not named is not there."""

    picture: Tensor  # (3, H, W), 0..1
    masks: dict[str, np.ndarray]  # (H, W) bool


def draw_concepts(size: tuple[int, int], seed: int = 0) -> Iterator[ConceptPicture]:
    """Yield pictures (3, *size) with a patch of one colour or texture each, on grey noise."""
    generator = np.random.default_rng(seed)
    for name in (*COLORS, *TEXTURES):
        for _ in range(PICTURES_EACH):
            yield _draw(name, size, generator)


def _draw(name: str, size: tuple[int, int], generator: np.random.Generator) -> ConceptPicture:
    height, width = size
    y, x = np.mgrid[:height, :width].astype(float)
    tall, wide = (generator.uniform(0.35, 0.6) * side for side in size)
    top, left = generator.uniform(0, height - tall), generator.uniform(0, width - wide)
    mask = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    coarse = generator.uniform(0.35, 0.65, (8, 8)).astype(np.float32)
    grey = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    picture = np.repeat(np.asarray(grey, np.float32)[:, :, None], 3, axis=2)
    if name in COLORS:
        patch = np.broadcast_to(np.array(COLORS[name]) * generator.uniform(0.85, 1.0), picture.shape)
    else:
        period = generator.uniform(0.04, 0.09) * height
        light = TEXTURES[name](y, x, period)[:, :, None]
        patch = np.broadcast_to(
            np.where(light, generator.uniform(0.75, 0.95), generator.uniform(0.1, 0.3)), picture.shape
        )
    shown = np.where(mask[:, :, None], patch, picture).clip(0, 1).astype(np.float32)
    return ConceptPicture(torch.from_numpy(shown).permute(2, 0, 1), {name: mask})


def find_masks(folder: Path) -> dict[Path, dict[str, Path]]:
    """Return the photos of a folder, each with the files of its masks by concept.

    Beside ``a.jpg`` lie ``a.stripes.png``, ``a.red.png``, ...: masks of the photo's size, not black where the concept
    is. ConfigError: there is none, or one has no photo.
    """
    if not folder.is_dir():
        raise ConfigError(f"--concepts: {folder} is no folder")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTOS)
    photos = {path.stem: path for path in files if "." not in path.stem}
    masks: dict[str, dict[str, Path]] = {name: {} for name in photos}
    for path in files:
        photo, dot, concept = path.stem.partition(".")
        if not dot:
            continue
        if photo not in photos or path.suffix.lower() != ".png":
            raise ConfigError(f"--concepts: {path.name} is no mask of a photo: beside cup.jpg lies cup.red.png")
        masks[photo][concept] = path
    if not any(masks.values()):
        raise ConfigError(f"--concepts: {folder} has no masks: beside cup.jpg lies cup.red.png")
    if len(photos) > MOST_PHOTOS:
        raise ConfigError(f"--concepts: {folder} has {len(photos)} photos; the limit is {MOST_PHOTOS}")
    concepts = {concept for named in masks.values() for concept in named}
    if len(photos) * len(concepts) > MOST_MASKS:
        raise ConfigError(
            f"--concepts: {folder} has {len(photos)} photos and {len(concepts)} concepts; the limit is {MOST_MASKS} "
            "for the one times the other"
        )
    return {path: masks[name] for name, path in photos.items()}


def read_concepts(found: Mapping[Path, Mapping[str, Path]], size: tuple[int, int]) -> Iterator[ConceptPicture]:
    """Yield the photos that ``find_masks`` found, resized to ``size``. ConfigError: one or its mask cannot be used."""
    for path, masks in found.items():
        yield _read(path, masks, size)


def _read(path: Path, masks: Mapping[str, Path], size: tuple[int, int]) -> ConceptPicture:
    photo = read_picture(path)
    shape = (size[1], size[0])
    found = {}
    for concept, file in masks.items():
        mask = read_picture(file)
        if mask.size != photo.size:
            raise ConfigError(f"--concepts: {file.name} has {mask.size} pixels, its photo {photo.size}")
        found[concept] = np.asarray(mask.convert("L").resize(shape, Image.Resampling.NEAREST)) > 0
    return ConceptPicture(as_tensor(photo.resize(shape, Image.Resampling.BILINEAR)), found)


def read_picture(path: Path) -> Image.Image:
    """Return a picture of the file system in RGB, turned as its EXIF says. ConfigError: it is none."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path} cannot be read as a picture: {error}") from None


def as_tensor(image: Image.Image) -> Tensor:
    """Return an RGB picture as (3, H, W), 0..1."""
    return torch.tensor(np.asarray(image)).permute(2, 0, 1).float() / 255
