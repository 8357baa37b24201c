"""From what a person names - files, folders, patterns, lists - to pictures with names of their own."""

from __future__ import annotations

import csv
import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from camserve.build.baseline.photos import find_images
from camserve.bulk.remote import is_remote, list_remote, require_pyarrow
from camserve.errors import ConfigError, first_line

TABLES = (".csv", ".tsv")
LISTS = (".txt", ".lst")
COLUMNS = ("path", "file", "image", "filename")  # of a table, the first that it has
PATTERN = re.compile(r"[*?\[]")
UNSAFE = re.compile(r"[^\w .()+=,@-]")
LONGEST_PART = 80  # bytes of a folder or a name of what is written


class Photo(NamedTuple):
    """One picture to ask about."""

    path: str  # where it lies
    name: str  # of what is written about it: unique in a run, without a suffix, perhaps with folders


class _Found(NamedTuple):
    path: str
    shown: str  # the path from its source on


def list_photos(sources: Sequence[str], taken: Mapping[str, str]) -> list[Photo]:
    """Return the pictures of all sources, each once, in the order given.

    ``taken`` holds the names of an earlier run by path: they stay what they are. A path that is named and does not
    exist is a picture that cannot be read. ConfigError: a folder, pattern or list has no pictures or cannot be read.
    """
    found = {found.path: found for source in sources for found in _expand(source)}
    return list(_name_all(found.values(), taken))


def _expand(source: str) -> Iterable[_Found]:
    path, suffix = Path(source), Path(source).suffix.lower()
    if is_remote(source):
        return [_Found(*found) for found in list_remote(source)]
    if path.is_dir():
        return [_Found(str(image), image.relative_to(path).as_posix()) for image in find_images(path)]
    if suffix in (*TABLES, *LISTS, ".parquet"):
        return _read_list(path, suffix)
    if PATTERN.search(source) and not path.exists():
        return _match(source)
    return [_Found(source, path.name)]


def _match(pattern: str) -> list[_Found]:
    fixed = PATTERN.split(pattern)[0].rpartition("/")[0]
    matched = [name for name in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(name)]
    if not matched:
        raise ConfigError(f"{pattern} matches no file")
    return [_Found(name, os.path.relpath(name, fixed or ".")) for name in matched]


def _read_list(path: Path, suffix: str) -> list[_Found]:
    try:
        entries = _read_parquet(path) if suffix == ".parquet" else _read_text(path, suffix)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or first_line(error)}") from None
    except (ValueError, csv.Error) as error:
        raise ConfigError(f"{path} is no list of pictures: {first_line(error)}") from None
    if not entries:
        raise ConfigError(f"{path} lists no pictures")
    return [_Found(entry if is_remote(entry) else os.path.join(path.parent, entry), entry) for entry in entries]


def _read_text(path: Path, suffix: str) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if suffix in LISTS:
            return [line.strip() for line in file if line.strip()]
        rows = csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
        column = _column(path, rows.fieldnames or ())
        return [row[column] for row in rows if row[column]]


def _read_parquet(path: Path) -> list[str]:
    require_pyarrow(str(path))
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        column = _column(path, file.schema_arrow.names)
        return [str(entry) for entry in file.read([column]).column(0).to_pylist() if entry]


def _column(path: Path, columns: Iterable[str]) -> str:
    found = [name for name in COLUMNS if name in columns]
    if not found:
        raise ConfigError(f"{path} has no column of paths: name one {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}")
    return found[0]


def _name_all(found: Iterable[_Found], taken: Mapping[str, str]) -> Iterator[Photo]:
    used = {name.casefold() for name in taken.values()}
    for path, shown in found:
        name = taken.get(path)
        if name is None:
            name = _unused(safe_name(shown), used)
            used.add(name.casefold())
        yield Photo(path, name)


def _unused(name: str, used: set[str]) -> str:
    number, unused = 1, name
    while unused.casefold() in used:
        number += 1
        unused = f"{name}~{number}"
    return unused


def safe_name(shown: str) -> str:
    """Return a path without suffix that stays inside the folder it is put in, of letters that every system takes."""
    parts = [part for part in Path(shown).with_suffix("").parts if part not in ("/", "..", ".")]
    return "/".join(safe_part(part) for part in parts) or "picture"


def safe_part(text: str) -> str:
    """Return a text as a part of a file's name."""
    return cut_text(UNSAFE.sub("_", text), LONGEST_PART).strip(" .") or "_"


def cut_text(text: str, most: int) -> str:
    """Return the start of a text that has at most so many bytes in UTF-8, of which a file's name may have 255."""
    return text.encode()[:most].decode(errors="ignore")
