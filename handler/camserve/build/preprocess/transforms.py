"""A transform of torchvision, or of a person's own, as the input of a network: written as keys where it can be."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from camserve.build.preprocess.agreement import check_agreement, draw_ramps
from camserve.build.preprocess.geometry import input_spec, preset_block
from camserve.errors import ConfigError, first_line
from camserve.input_spec import InputSpec
from camserve.intake.decode import decode
from camserve.intake.transform import Transform
from camserve.settings import Limits
from camserve.strict import read
from camserve.values import Progress

NEUTRAL = ("ToTensor", "MaybeToTensor", "ToImage", "PILToTensor", "ConvertImageDtype", "ToDtype", "RGB")
TRIED = ((330, 250), (200, 300))  # pixels across and down of the pictures that a transform is run on
EDGE = 8  # pixels along each side that a transform must look at, unless it says which part it kept
OWN = "preprocess:transform"  # name in the settings of a transform that no archive carries
Step = Mapping[str, Any]


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes what a network is shown."""

    spec: InputSpec
    transform: Transform | None = None  # run in the place of ``spec``
    labels: Sequence[str] | None = None  # that come with it


def read_preprocessing(given: object, report: Progress) -> Preprocessing:
    """Return the preprocessing that a person gives in Python.

    ``given`` is a name or a block as in a recipe, weights of torchvision, or a transform: a function of a PIL picture
    that returns (C, H, W), or that and the part of the picture that it shows. ConfigError: it is none of these, is
    random, or crops without saying so.
    """
    if given is None or isinstance(given, (str, InputSpec)):
        return Preprocessing(input_spec(given))
    if isinstance(given, Mapping):
        return Preprocessing(read(InputSpec, given, "preprocess"))
    if hasattr(given, "transforms") and hasattr(given, "meta"):
        return Preprocessing(InputSpec(**preset_block(given.transforms())), labels=given.meta.get("categories"))
    if not callable(given):
        kind = type(given).__name__
        raise ConfigError(
            f"preprocess is a name, a block of keys (docs/input.md), weights or a transform, not a {kind}"
        )
    block = find_block(given)
    if block is not None:
        try:
            check_agreement(block, given, "the transform")
            return Preprocessing(read(InputSpec, block, "preprocess"))
        except ConfigError as error:
            report(f"preprocess: the transform is run as it is ({error})")
    return _adopt(given)


def find_block(transform: Any) -> dict[str, Any] | None:
    """Return the input block that a transform seems to be; None: it has steps that no block says."""
    if hasattr(transform, "resize_size") and hasattr(transform, "crop_size"):
        return preset_block(transform)
    block: dict[str, Any] = {"resize": None, "crop": None, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    for step in _steps(transform):
        keys = _read_step(step)
        if keys is None:
            return None
        block |= keys
    return block


def _steps(transform: Any) -> Iterator[Any]:
    inner = getattr(transform, "transforms", None)
    if not isinstance(inner, Sequence):
        yield transform
        return
    for step in inner:
        yield from _steps(step)


def _read_step(step: Any) -> Step | None:
    name = type(step).__name__
    if name in NEUTRAL:
        return {}
    if name == "Resize" and getattr(step, "max_size", None) is None:
        interpolation = getattr(step.interpolation, "value", step.interpolation)
        return {"resize": _size(step.size), "interpolation": interpolation}
    if name == "CenterCrop":
        return {"crop": _size(step.size)}
    if name == "Normalize":
        return {"mean": _numbers(step.mean), "std": _numbers(step.std)}
    return None


def _size(size: Any) -> Any:
    if isinstance(size, int):
        return size
    sides = tuple(int(side) for side in size)
    return sides[0] if len(sides) == 1 else sides


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _adopt(transform: Callable[[Image.Image], Any]) -> Preprocessing:
    """Return a transform as it is. ConfigError: it is random, of no fixed size, or crops without saying so."""
    pictures = [decode(_encode(draw_ramps(*size)), Limits()).image for size in TRIED]
    arrays = [_run(transform, picture) for picture in pictures]
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 3:
        shapes = " and ".join(str(array.shape) for array in arrays)
        raise ConfigError(f"preprocess: the transform must return (C, H, W) of one size, not {shapes}")
    if not np.array_equal(arrays[0], _run(transform, pictures[0])):
        raise ConfigError("preprocess: the transform is random: give the one for evaluation")
    if not isinstance(transform(pictures[0]), tuple):
        _check_whole(transform, pictures[0], arrays[0])
    channels, height, width = arrays[0].shape
    return Preprocessing(InputSpec(channels=channels, crop=(height, width), transform=OWN), transform)


def _run(transform: Callable[[Image.Image], Any], picture: Image.Image) -> np.ndarray:
    try:
        made = transform(picture.copy())
        return np.asarray(made[0] if isinstance(made, tuple) else made, np.float32)
    except Exception as error:  # a person's own code
        raise ConfigError(f"preprocess: the transform fails: {type(error).__name__}: {first_line(error)}") from error


def _check_whole(transform: Callable[[Image.Image], Any], picture: Image.Image, array: np.ndarray) -> None:
    """Refuse a transform that does not look at an edge of the picture: maps would be drawn beside what they show."""
    width, height = picture.size
    left, right = (0, 0, EDGE, height), (width - EDGE, 0, width, height)
    top, bottom = (0, 0, width, EDGE), (0, height - EDGE, width, height)
    for edge in (left, right, top, bottom):
        other = picture.copy()
        other.paste((255, 0, 255), edge)
        if np.array_equal(_run(transform, other), array):
            raise ConfigError(
                "preprocess: the transform crops: return (array, (left, top, right, bottom)), the part that it keeps, "
                "or give it as keys (docs/input.md)"
            )


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
