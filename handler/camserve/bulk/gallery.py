"""A gallery: one HTML file of many maps that can be sorted and filtered, and asks for nothing from anywhere."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from camserve.answer.caption import word_question
from camserve.answer.render import encode
from camserve.answer.respond import data_uri, word_meaning
from camserve.build.write_file import write_whole
from camserve.bulk.options import Look
from camserve.bulk.rows import Answer, Row
from camserve.bulk.sheet import draw_small
from camserve.choices import CONTENT_TYPES
from camserve.viewer.page import fill_marks, hash_inline

FOLDER = Path(__file__).parent / "page"
MOST_CARDS = 2000  # maps
SIDE = 320  # pixels, of a picture's longest side
KIND = "JPEG"


class Card(NamedTuple):
    """One figure of the gallery: what it is sorted and filtered by, and its HTML."""

    label: str
    probability: float | None
    strength: float | None
    codes: tuple[str, ...]
    html: str


def write_gallery(rows: Iterable[Row], path: Path, title: str, look: Look) -> int:
    """Write the gallery of the first maps of a run and return how many they are."""
    cards = list(itertools.islice((card for row in rows for card in _cards(row, look)), MOST_CARDS))
    html, style, script = ((FOLDER / f"gallery.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    policy = f"default-src 'none'; img-src data:; script-src '{hash_inline(script)}'; style-src '{hash_inline(style)}'"
    parts = {
        "POLICY": f"{policy}; base-uri 'none'; form-action 'none'",
        "TITLE": _escape(title),
        "STYLE": style,
        "SCRIPT": script,
        "CLASSES": _choices(Counter(card.label for card in cards)),
        "WARNINGS": _choices(Counter(code for card in cards for code in card.codes)),
        "COUNT": str(len(cards)),
        "CARDS": "".join(card.html for card in cards),
    }
    page = fill_marks(html, parts).encode("utf-8", "backslashreplace")
    write_whole(path, lambda unfinished: unfinished.write_bytes(page))
    return len(cards)


def _escape(text: object) -> str:
    """Return a text of anybody's as HTML, inside an element or an attribute; control characters are left out."""
    return escape("".join(char if char.isprintable() else " " for char in str(text)))


def _choices(counts: Counter[str]) -> str:
    return "".join(
        f'<option value="{_escape(name)}">{_escape(name)} ({count})</option>' for name, count in sorted(counts.items())
    )


def _cards(row: Row, look: Look) -> Iterator[Card]:
    if row.answer is None:
        error = row.error or {}
        code = str(error.get("code"))
        words = [f"<p class=error>{_escape(error.get('message'))}</p>"]
        yield _card(row, None, "", code, None, None, (code,), words)
        return
    for number in range(max(1, len(row.answer["explanations"]))):
        yield _map_card(row, row.answer, number, look)


def _map_card(row: Row, answer: Answer, number: int, look: Look) -> Card:
    picture = draw_small(row, look, SIDE, number)
    source = None if picture is None else data_uri(CONTENT_TYPES[KIND], encode(picture, KIND))
    warnings = [warning for warning in answer["warnings"] if warning.get("explanation", number) == number]
    explanations = answer["explanations"]
    explanation: dict[str, Any] = explanations[number] if explanations else {"target": answer["predictions"][0]}
    target = explanation["target"]
    words = [f"<p>{_escape(_question(explanation))}</p>" if explanations else ""]
    words += [
        f'<p class=warning title="{_escape(warning["message"])}">{_escape(warning["code"])}</p>' for warning in warnings
    ]
    words.append(_predictions(answer))
    label, codes = str(target["label"]), tuple(dict.fromkeys(warning["code"] for warning in warnings))
    heading = f"{label} {word_meaning(target, 3)}"
    return _card(row, source, label, heading, target.get("probability"), explanation.get("strength"), codes, words)


def _question(explanation: dict[str, Any]) -> str:
    question = word_question(
        explanation["method"], explanation["evidence"], explanation["contrast"], explanation.get("of_channels")
    )
    status = "" if explanation["status"] == "ok" else f": {explanation['status']}"
    strength = "" if explanation["strength"] is None else f", strength {explanation['strength']:.2g}"
    return f"{question}{strength}{status}"


def _predictions(answer: Answer) -> str:
    lines = (f"<li>{_escape(one['label'])} {word_meaning(one, 3)}" for one in answer["predictions"])
    return f"<details><summary>all classes</summary><ul>{''.join(lines)}</ul></details>"


def _card(
    row: Row,
    source: str | None,
    label: str,
    heading: str,
    probability: float | None,
    strength: float | None,
    codes: tuple[str, ...],
    words: list[str],
) -> Card:
    data = {
        "path": row.photo.path,
        "label": label,
        "probability": "" if probability is None else probability,
        "strength": "" if strength is None else strength,
        "warnings": " ".join(codes),
    }
    attributes = "".join(f' data-{name}="{_escape(value)}"' for name, value in data.items())
    image = f'<img src="{source}" alt="" loading=lazy>' if source else "<div class=empty>no picture</div>"
    shown = f"<button>{image}</button>" if source else image
    title = f"<h2><bdi>{_escape(heading)}</bdi></h2><p class=path><bdi>{_escape(row.photo.path)}</bdi></p>"
    html = f"<figure{attributes}>{shown}<figcaption>{title}{''.join(words)}</figcaption></figure>\n"
    return Card(label, probability, strength, codes, html)
