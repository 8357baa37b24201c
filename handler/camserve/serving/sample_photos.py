"""An archive's sample photos, small enough to travel in the page for browsers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps

from camserve.answer.render import encode
from camserve.answer.respond import data_uri
from camserve.choices import CONTENT_TYPES
from camserve.errors import first_line
from camserve.files import inside
from camserve.settings import Settings

logger = logging.getLogger(__name__)

MOST_SHOWN = 2
SIDE = 512  # pixels: two photos take about 120 kB
PLAIN_MODES = ("RGB", "L", "P")  # others, such as 16 bits, would not look as the network sees them
KIND = "JPEG"


def shrink_samples(folder: Path, settings: Settings) -> tuple[str, ...]:
    """Return data URIs of the first sample photos, upright, at most ``SIDE`` pixels wide and high."""
    return tuple(_shrink(folder, settings.samples[:MOST_SHOWN]))


def _shrink(folder: Path, samples: tuple[str, ...]) -> Iterator[str]:
    for sample in samples:
        try:
            with Image.open(inside(folder, sample)) as photo:
                if photo.mode not in PLAIN_MODES:
                    raise ValueError(f"its mode {photo.mode} is none of {', '.join(PLAIN_MODES)}")
                upright = ImageOps.exif_transpose(photo).convert("RGB")
        except (OSError, ValueError) as error:  # of a format that only a transform of the archive's own reads
            logger.warning("camserve: %s is not shown on the page for browsers: %s", sample, first_line(error))
            continue
        upright.thumbnail((SIDE, SIDE))
        yield data_uri(CONTENT_TYPES[KIND], encode(upright, KIND))
