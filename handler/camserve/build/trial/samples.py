"""The pictures that a network is tried on, and that its archive carries."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camserve.build.locate import find_file
from camserve.errors import ConfigError, RequestError
from camserve.input_spec import InputSpec
from camserve.intake.accept import read_pixels
from camserve.intake.preprocess import normalise
from camserve.intake.transform import Transform
from camserve.serving.pipeline import Pipeline
from camserve.settings import Limits
from camserve.values import RawRequest

NOISE = 2  # pictures that come before the samples
PATTERN = "samples/pattern.png"  # of an archive without a photo


def stage_samples(samples: Sequence[str], content: Path) -> tuple[str, ...]:
    """Copy sample photos, or a pattern where there are none, and return their paths in the archive."""
    (content / "samples").mkdir()
    if not samples:
        _pattern().save(content / PATTERN)
        return (PATTERN,)
    files = [find_file(sample) for sample in samples]
    for file in files:
        shutil.copy(file, content / "samples" / file.name)
    return tuple(f"samples/{file.name}" for file in files)


def _pattern() -> Image.Image:
    """Return a picture with edges and colours, for the self-test of an archive without a photo."""
    rows, columns = np.mgrid[0:256, 0:256]
    waves = [np.sin(rows / 9) + np.cos(columns / 7), np.sin((rows + columns) / 13), np.cos(np.hypot(rows, columns) / 5)]
    return Image.fromarray(np.stack([wave * 60 + 128 for wave in waves], axis=2).astype(np.uint8))


def pixels_to_try(
    content: Path, samples: Sequence[str], spec: InputSpec, limits: Limits, transform: Transform | None
) -> Tensor:
    """Return what a network is tried on, (N, C, H, W), N at least 3: two pictures of noise, and the samples.

    ConfigError: a sample is no picture that would be accepted.
    """
    noise = torch.randn(NOISE, *spec.shape, generator=torch.Generator().manual_seed(0))
    photos = [_accept(content, sample, spec, limits, transform) for sample in samples]
    return torch.cat([noise, normalise(photos, spec, torch.device("cpu"))]).contiguous()


def _accept(content: Path, sample: str, spec: InputSpec, limits: Limits, transform: Transform | None) -> np.ndarray:
    picture = (content / sample).read_bytes()
    try:
        return read_pixels(picture, spec, limits, transform)
    except RequestError as error:
        raise ConfigError(f"{sample}: {error}") from None


def try_methods(content: Path, pipeline: Pipeline, sample: str) -> None:
    """Explain a sample by every method for every head. ConfigError: a map fails, or a photo's usual one is blank."""
    settings = pipeline.settings
    heads = [{}, *({"head": output.name} for output in settings.outputs[1:])]
    for method, head in itertools.product(settings.methods, heads):
        row = RawRequest((content / sample).read_bytes(), {"method": method, "explain": True, **head})
        explanations = json.loads(pipeline.answer([row])[0].body)["explanations"]
        statuses = {explanation["status"] for explanation in explanations}
        blank_is_fine = sample == PATTERN or method != settings.defaults.method
        if "failed" in statuses or (statuses == {"blank"} and not blank_is_fine):
            raise ConfigError(f"{sample}: method {method} gives a map that is {min(statuses, key='failed'.__ne__)}")
