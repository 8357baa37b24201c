"""Files of JSON lines, each written when it is there, from which a run that was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from camserve.build.write_file import write_whole
from camserve.errors import ConfigError

Item = TypeVar("Item")


def read_json_lines(path: Path, parse: Callable[[Any], Item], command: str) -> Iterator[tuple[str, Item]]:
    """Yield each line of a file and what ``parse`` makes of its JSON; a last one that was cut off is left out.

    ConfigError names the line that ``parse`` refuses by ValueError, LookupError or TypeError; ``command`` wrote it.
    """
    number = 1
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if not line.endswith("\n"):
                    return  # the run was ended over it
                yield line, parse(json.loads(line))
                number += 1
    except (ValueError, LookupError, TypeError):
        raise ConfigError(f"{path}, line {number}, is no row of {command}") from None


def rewrite_lines(path: Path, lines: Iterable[str]) -> None:
    """Put these lines in the place of a file's own, all or none."""

    def write(unfinished: Path) -> None:
        with unfinished.open("w", encoding="utf-8") as file:
            file.writelines(lines)

    write_whole(path, write)


@contextmanager
def append_json_lines(path: Path) -> Iterator[Callable[[Any], None]]:
    """Yield what writes a value to the end of a file at once. ValueError: a number is not finite."""
    with path.open("a", encoding="utf-8") as file:

        def append(value: Any) -> None:
            file.write(write_line(value))
            file.flush()

        yield append


def write_line(value: Any) -> str:
    """Return a value as one compact line of ASCII."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n"
