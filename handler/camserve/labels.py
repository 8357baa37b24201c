"""Class names, and finding the class that a caller means."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from camserve.errors import ConfigError, UnknownClass, nearest, quote

INDEX = re.compile(r"[+-]?[0-9]+")
MOST_DIGITS = 20  # of a class index; Python refuses to read thousands
BY_INDEX, BY_NAME = "index:", "label:"  # say which of the two a text means
RESERVED = re.compile(r"predicted|none|next|(top|index|label):.*|\[.*", re.DOTALL)  # what options mean otherwise
MOST_SHOWN = 10  # indices in a refusal


class Labels:
    """The class names of a model, by class index."""

    def __init__(self, names: Sequence[str]) -> None:
        """Index the names. ConfigError: a name is empty."""
        for index, name in enumerate(names):
            if not name.strip():
                raise ConfigError(f"labels: class {index} has no name")
        self._names = tuple(names)
        self.numeric = any(INDEX.fullmatch(name.strip()) for name in names)  # a bare number then is a name
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
        """Return the class index that ``text`` names: a label, one of a label's synonyms, or an index.

        A label counts exactly, then in any case, then by one of its comma-separated synonyms. ``label:`` before it
        says that it is no other word of an option, ``index:`` that a number is no label.
        UnknownClass: nothing or more than one class fits; the message names the nearest.
        """
        name_or_index = text.strip()
        if name_or_index.startswith(BY_INDEX):
            return self._at(name_or_index[len(BY_INDEX) :].strip())
        name = name_or_index[len(BY_NAME) :] if name_or_index.startswith(BY_NAME) else text
        if (found := self._called(name)) is not None:
            return found
        if INDEX.fullmatch(name_or_index) and not self.numeric:
            return self._at(name_or_index)
        hint = f"; {BY_INDEX}N asks for a class by its index" if INDEX.fullmatch(name_or_index) else ""
        raise UnknownClass(f"no class is called {quote(name)}{hint or nearest(name.casefold(), self._lookups[2])}")

    def _at(self, digits: str) -> int:
        if not INDEX.fullmatch(digits) or len(digits) > MOST_DIGITS or not 0 <= int(digits) < len(self):
            raise UnknownClass(f"class index {quote(digits)} is not in 0..{len(self) - 1}")
        return int(digits)

    def _called(self, name: str) -> int | None:
        for lookup, key in zip(self._lookups, (name, name.strip().casefold(), name.strip().casefold())):
            found = lookup.get(key, [])
            if len(found) > 1:
                choices = ", ".join(f"{BY_INDEX}{index}" for index in found[:MOST_SHOWN])
                raise UnknownClass(f"class {quote(name)} is ambiguous: ask for one of {choices}")
            if found:
                return found[0]
        return None


def load_labels(path: Path) -> Labels:
    """Read one label a line. ConfigError: the file cannot be read or a line is empty."""
    try:
        return Labels(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"labels: cannot read {path.name}: {error}") from None


def _synonyms(name: str) -> list[str]:
    return sorted({part.strip().casefold() for part in (name, *name.split(",")) if part.strip()})


def _lookup(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    table: dict[str, list[int]] = defaultdict(list)
    for name, index in pairs:
        table[name].append(index)
    return dict(table)
