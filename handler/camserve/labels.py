"""Class names, and finding the class that a caller means."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from camserve.errors import ConfigError, UnknownClass, nearest, quote

INDEX = re.compile(r"[+-]?[0-9]+")
MOST_DIGITS = 20  # of a class index; Python refuses to read thousands


class Labels:
    """The class names of a model, by class index."""

    def __init__(self, names: Sequence[str]) -> None:
        """Index the names. ConfigError: a name is empty."""
        for index, name in enumerate(names):
            if not name.strip():
                raise ConfigError(f"labels: class {index} has no name")
        self._names = tuple(names)
        self._lookups = (
            _lookup((name, index) for index, name in enumerate(names)),
            _lookup((name.casefold(), index) for index, name in enumerate(names)),
            _lookup((synonym, index) for index, name in enumerate(names) for synonym in _synonyms(name)),
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __getitem__(self, index: int) -> str:
        return self._names[index]

    def __contains__(self, name: object) -> bool:
        return name in self._lookups[0]

    def __len__(self) -> int:
        return len(self._names)

    def find(self, text: str) -> int:
        """Return the class index that ``text`` names: an index, a label, or one of a label's synonyms.

        A label counts exactly, then in any case, then by one of its comma-separated synonyms.
        UnknownClass: nothing or more than one class fits; the message names the nearest.
        """
        if INDEX.fullmatch(index := text.strip()):
            if len(index) > MOST_DIGITS or not 0 <= int(index) < len(self):
                raise UnknownClass(f"class index {quote(index)} is not in 0..{len(self) - 1}")
            return int(index)
        for lookup, key in zip(self._lookups, (text, text.strip().casefold(), text.strip().casefold())):
            found = lookup.get(key, [])
            if len(found) > 1:
                raise UnknownClass(f"class {quote(text)} is ambiguous: use one of the indices {found[:10]}")
            if found:
                return found[0]
        raise UnknownClass(f"no class is called {quote(text)}{nearest(text.casefold(), self._lookups[2])}")


def load_labels(path: Path) -> Labels:
    """Read one label a line. ConfigError: the file cannot be read or a line is empty."""
    try:
        return Labels(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"labels: cannot read {path.name}: {error}") from None


def _synonyms(name: str) -> list[str]:
    return sorted({part.strip().casefold() for part in (name, *name.split(",")) if part.strip()})


def _lookup(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    table: dict[str, list[int]] = defaultdict(list)
    for name, index in pairs:
        table[name].append(index)
    return dict(table)
