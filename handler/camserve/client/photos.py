"""What a caller calls a photo, as the bytes of a picture file."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Union

import numpy as np
from PIL import Image, ImageOps

from camserve.errors import ConfigError, first_line, quote

Photo = Union[bytes, bytearray, str, "os.PathLike[str]", np.ndarray, Image.Image]

KEPT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # that PNG holds as they are
CHANNELS = (1, 3, 4)


def read_photo(photo: Photo) -> bytes:
    """Return the file of a photo: bytes as they are, of a path its content, of an array or a PIL picture a PNG.

    An array is (H, W) or (H, W, C) uint8, C 1, 3 or 4, red first. ConfigError: it cannot be read, or is none of these.
    """
    if isinstance(photo, (bytes, bytearray)):
        return bytes(photo)
    if isinstance(photo, (str, os.PathLike)):
        return _read_file(photo)
    if isinstance(photo, Image.Image):
        return _write_png(ImageOps.exif_transpose(photo))
    if isinstance(photo, np.ndarray):
        return _write_png(_from_array(photo))
    raise ConfigError(
        f"a photo is bytes, a path, an array (H, W, C) uint8 or a PIL picture, not a {type(photo).__name__}"
    )


def _read_file(path: str | os.PathLike[str]) -> bytes:
    if isinstance(path, str) and path.partition("://")[0] in ("http", "https"):
        raise ConfigError(f"{quote(path)} is not fetched: give its bytes, httpx.get(url).content")
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ConfigError(f"cannot read {quote(path)}: {reason}") from None


def _from_array(array: np.ndarray) -> Image.Image:
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in CHANNELS)
    if array.dtype != np.uint8 or not is_image or not array.size:
        raise ConfigError(
            f"an array must be (H, W) or (H, W, C) uint8 with 1, 3 or 4 channels, not {array.shape} {array.dtype}"
        )
    return Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array)


def _write_png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    kept = image if image.mode in KEPT_MODES else image.convert("RGB")
    kept.save(buffer, "PNG", compress_level=1)  # fast: the network is nearer than the time it saves
    return buffer.getvalue()
