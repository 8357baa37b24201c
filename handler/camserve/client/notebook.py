"""An answer as a notebook shows it: one piece of HTML that needs no other file."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from camserve.answer.render import encode
from camserve.answer.respond import data_uri
from camserve.choices import CONTENT_TYPES

if TYPE_CHECKING:
    from camserve.client.answers import Answer, Explanation

SIDE = 320  # pixels of each picture's longest side
MOST_MAPS = 9
KIND = "PNG"


def render_html(answer: Answer) -> str:
    """Return the predictions, the maps and the warnings of an answer; every text in it is escaped."""
    rows = "".join(
        f"<tr><td>{escape(prediction.label)}</td><td>{escape(prediction.meaning)}</td></tr>"
        for prediction in answer.predictions
    )
    warnings = "".join(
        f"<li><b>{escape(warning.code)}</b> {escape(warning.message)}</li>" for warning in answer.warnings
    )
    listed = f"<ul>{warnings}</ul>" if warnings else ""
    return f"<div><table>{rows}</table>{''.join(_figures(answer))}{listed}</div>"


def _figures(answer: Answer) -> Iterator[str]:
    for number, explanation in enumerate(answer.explanations[:MOST_MAPS]):
        picture = "" if explanation.grid is None else f'<img alt="" src="{_picture(answer, number)}">'
        yield (
            '<figure style="display:inline-block;margin:4px">'
            f"{picture}<figcaption>{escape(_caption(explanation))}</figcaption></figure>"
        )


def _picture(answer: Answer, number: int) -> str:
    longest = max(answer.input.width, answer.input.height)
    return data_uri(CONTENT_TYPES[KIND], encode(answer.overlay(number, size=min(SIDE, longest)), KIND))


def _caption(explanation: Explanation) -> str:
    status = "" if explanation.status == "ok" else f", {explanation.status}"
    strength = "" if explanation.strength is None else f", strength {explanation.strength:.2f}"
    return f"{explanation.question}{strength}{status}"
