"""Drawn maps as files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from camserve.answer.render import encode
from camserve.bulk.drawing import NotDrawable, draw_row
from camserve.bulk.options import Look
from camserve.bulk.rows import Row
from camserve.errors import ConfigError, quote
from camserve.values import Progress

SUFFIX = ".jpg"  # of each drawn map
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # suffix -> format


def write_images(rows: Iterable[Row], folder: Path, look: Look, report: Progress) -> int:
    """Draw every map of every row into a folder and return how many files there are.

    ``report`` gets a line for each photo that is not there any more.
    """
    count = 0
    for row in rows:
        if row.answer is None:
            continue
        try:
            for drawn in draw_row(row, look):
                save_picture(drawn.image, _inside(folder, f"{drawn.name}{SUFFIX}"))
                count += 1
        except NotDrawable as error:
            report(str(error))
    return count


def _inside(folder: Path, name: str) -> Path:
    """Return the path of a file. ConfigError: a name that somebody else wrote down leads out of the folder."""
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        raise ConfigError(f"the run names a file outside of {folder}: {quote(name)}")
    return path


def save_one(row: Row, path: Path, look: Look) -> list[Path]:
    """Draw the maps of one picture into a file, or beside it where there are several; return the files.

    ConfigError: there is no map, or the file cannot be written.
    """
    drawn = list(draw_row(row, look))
    if not drawn:
        raise ConfigError(f"there is no map to draw into {path}")
    prefix = f"{row.photo.name}-"
    targets = [path] if len(drawn) == 1 else [path.with_stem(f"{path.stem}-{one.name[len(prefix) :]}") for one in drawn]
    for one, target in zip(drawn, targets):
        save_picture(one.image, target)
    return targets


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a picture in the format of the file's suffix, of ``PICTURES``. ConfigError: it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image, PICTURES[path.suffix.lower()]))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {path}: {error}") from None
