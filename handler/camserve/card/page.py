"""One HTML file of a card: every picture with what it is and what it is not."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO

import numpy as np
from PIL import Image
from torch import Tensor

STYLE = """
:root{color-scheme:light dark;--line:#8884}
body{font:14px/1.5 system-ui,sans-serif;max-width:1200px;margin:24px auto;padding:0 16px}
h1{font-size:22px}h2{font-size:17px;border-bottom:1px solid var(--line);margin-top:32px}
.flow{display:flex;flex-wrap:wrap;gap:16px}figure{margin:0;width:260px}figure img{width:100%;display:block}
figcaption{font-size:12px;overflow-wrap:anywhere}
.table{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:3px 10px;text-align:left;border-bottom:1px solid var(--line)}
"""


@dataclass(frozen=True)
class CardFigure:
    """One picture with its words."""

    picture: Tensor  # (3, H, W), 0..1
    title: str
    shows: str
    is_not: str
    figures: str = ""  # what was measured of it


@dataclass(frozen=True)
class Section:
    """A heading, a sentence, pictures and a table."""

    title: str
    words: str
    pictures: Sequence[CardFigure] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=tuple)  # the first is the head


def render(title: str, facts: str, sections: Sequence[Section]) -> str:
    """Return the page. It loads nothing: pictures are inside."""
    parts = [f"<h1>{escape(title)}</h1><p>{escape(facts)}</p>", *map(_section, sections)]
    head = f"<meta charset='utf-8'><title>{escape(title)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _section(section: Section) -> str:
    pictures = "".join(map(_figure, section.pictures))
    flow = f"<div class='flow'>{pictures}</div>" if pictures else ""
    return f"<h2>{escape(section.title)}</h2><p>{escape(section.words)}</p>{flow}{_table(section.rows)}"


def _figure(figure: CardFigure) -> str:
    words = " ".join(filter(None, (figure.shows, figure.figures)))
    return (
        f"<figure><img src='{png_uri(figure.picture)}' alt='{escape(figure.title, quote=True)}'><figcaption>"
        f"<b>{escape(figure.title)}</b><br>{escape(words)}<br><i>Not: {escape(figure.is_not)}</i></figcaption></figure>"
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in rows[0])}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows[1:]]
    return f"<div class='table'><table>{''.join(lines)}</table></div>"


def png_uri(picture: Tensor) -> str:
    """Return a picture (3, H, W), 0..1, as a PNG inside an address."""
    buffer = BytesIO()
    values = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
