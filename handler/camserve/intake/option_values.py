"""From the value of an option, as any route brings it, to texts, names and numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable

from camserve.errors import BadOption, quote, unknown_choice

LONGEST_TEXT = 1000  # characters of an option, or of an entry of its list
MOST_ENTRIES = 100  # of a list
MOST_BITS = 64  # of a whole number: writing out a longer one takes time that grows with its square


def decode_text(value: object, name: str) -> object:
    """Return bytes as text. BadOption: it is not UTF-8."""
    if not isinstance(value, (bytes, bytearray)):
        return value
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError:
        raise BadOption(f"option {quote(name)} is not UTF-8 text") from None


def decode_value(value: object, name: str) -> object:
    """Return bytes as text, and text that is a JSON list as that list.

    BadOption: it is not UTF-8, no list, or longer than anything that an option can mean. Nothing reads it before that.
    """
    _check_length(value, name)
    value = decode_text(value, name)
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadOption(f"option {quote(name)}: {quote(value)} is not a JSON list") from None
    return value


def cut_list(value: object) -> object:
    """Return a list with no more entries than it takes to refuse it: the bodies of a batch wait together."""
    return value[: MOST_ENTRIES + 1] if isinstance(value, list) else value


def _check_length(value: object, name: str) -> None:
    entries = value if isinstance(value, list) else [value]
    if len(entries) > MOST_ENTRIES:
        raise BadOption(f"option {quote(name)} has too many entries; the limit is {MOST_ENTRIES}")
    for entry in entries:
        if isinstance(entry, (str, bytes, bytearray)) and len(entry) > LONGEST_TEXT:
            raise BadOption(f"option {quote(name)} has {len(entry)} characters; the limit is {LONGEST_TEXT}")
        if isinstance(entry, int) and entry.bit_length() > MOST_BITS:
            raise BadOption(f"option {quote(name)} is a number of more than {MOST_BITS} bits")


def read_text(value: object, name: str) -> str:
    """Return a text or a number as text. BadOption: it is neither."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadOption(f"option {quote(name)} takes a text, not {quote(value)}")
    return str(value).strip()


def read_list(value: object, name: str) -> list[str]:
    """Return the texts of a list, or of a text with commas, each once. BadOption: one is empty or no text."""
    parts = value if isinstance(value, list) else read_text(value, name).split(",")
    texts = [read_text(part, name) for part in parts]
    if not texts or not all(texts):
        raise BadOption(f"option {quote(name)} is empty")
    return list(dict.fromkeys(texts))


def read_names(value: object, name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the texts of a list, all of them ``known``. BadOption: one is not."""
    known = tuple(known)
    for text in (texts := read_list(value, name)):
        if text not in known:
            raise BadOption(unknown_choice(text, known, name))
    return tuple(texts)


def read_name(value: object, name: str, known: Iterable[str]) -> str:
    """Return the one text of ``known``. BadOption: there are more, or another."""
    found = read_names(value, name, known)
    if len(found) > 1:
        raise BadOption(f"option {quote(name)} takes one value, not {len(found)}")
    return found[0]


def read_number(value: object, name: str, low: float, high: float) -> float:
    """Return a number between ``low`` and ``high``. BadOption: it is none."""
    text = read_text(value, name)
    try:
        number = float(text)
    except ValueError:
        raise BadOption(f"option {quote(name)} takes a number, not {quote(text)}") from None
    if not low <= number <= high:  # refuses NaN too
        raise BadOption(f"option {quote(name)} must be {low:g} to {high:g}, not {quote(text)}")
    return number


def read_whole(value: object, name: str, low: int, high: int) -> int:
    """Return a whole number between ``low`` and ``high``. BadOption: it is none."""
    number = read_number(value, name, low, high)
    if number != int(number):
        raise BadOption(f"option {quote(name)} takes a whole number, not {quote(value)}")
    return int(number)


def read_flag(value: object, name: str) -> bool | str:
    """Return whether a value says true or false; another text is returned."""
    text = str(value) if isinstance(value, bool) else read_text(value, name)
    return {"true": True, "false": False}.get(text.lower(), text)
