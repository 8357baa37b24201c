"""From the files of ``page/`` and a model description to one HTML page that needs no other file."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from camserve.answer.render.palette import PALETTE_OF

FOLDER = Path(__file__).parent / "page"
# In the order in which they are run, as one module.
SCRIPTS = (
    *("elements", "maps", "orientation", "stage", "advice", "requests", "labels"),
    *("results", "export", "photos", "state", "drawing", "main"),
)
HTML_TYPE = "text/html; charset=utf-8"
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}


@dataclass(frozen=True)
class Page:
    """One HTML page, UTF-8, and its content security policy."""

    body: bytes
    policy: str

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer that is this page."""
        return {**HEADERS, "Content-Security-Policy": f"{self.policy}; frame-ancestors 'none'"}


def render_page(description: Mapping[str, object] | None, limit: float = math.inf, samples: Sequence[str] = ()) -> Page:
    """Return the page of the model that ``description`` describes, of at most ``limit`` bytes.

    ``samples`` are data URIs of photos to try. Where the page is longer than ``limit``, labels and samples are left
    out. A description of None: a page without a model, which asks for a token and reads the description with it.
    """
    if description is None:
        return _fill(None)
    page = _fill(_facts(description, samples))
    return page if len(page.body) <= limit else _fill(_facts(_without_labels(description), ()))


def _facts(description: Mapping[str, object], samples: Sequence[str]) -> dict[str, object]:
    palettes = {name: dataclasses.asdict(palette) for name, palette in PALETTE_OF.items()}
    return {"description": description, "palettes": palettes, "samples": list(samples)}


def _without_labels(description: Mapping[str, object]) -> dict[str, object]:
    heads = description.get("heads")
    return {
        **description,
        "labels": [],
        **(
            {"heads": {name: {**head, "labels": []} for name, head in heads.items()}} if isinstance(heads, dict) else {}
        ),
    }


def _fill(facts: Mapping[str, object] | None) -> Page:
    html, style, script, policy = _template()
    parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script, "FACTS": _escape_json(facts)}
    return Page(fill_marks(html, parts).encode(), policy)


def fill_marks(html: str, parts: Mapping[str, str]) -> str:
    """Return HTML with each part in the place of its ``@MARK@``, in one pass: a label may be written like a mark."""
    return re.sub("@([A-Z]+)@", lambda found: parts[found[1]], html)


def _escape_json(value: object) -> str:
    """Write JSON that cannot end the element that holds it, and that UTF-8 can hold."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


@cache
def _template() -> tuple[str, str, str, str]:
    """Return HTML with marks, style, script, and the policy that lets these two run and nothing else."""
    html, style = _shorten(_read("page.html")), _shorten(_read("page.css"))
    script = _shorten(re.sub(r"(?m)^\s*//.*\n", "", "".join(_read(f"{name}.js") for name in SCRIPTS)))
    policy = (
        f"default-src 'none'; script-src '{hash_inline(script)}'; style-src '{hash_inline(style)}'; "
        "connect-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return html, style, script, policy


def _shorten(text: str) -> str:
    """Leave out indentation and empty lines, which nothing in the files of ``page/`` depends on."""
    return re.sub(r"\n\s+", "\n", text)


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def hash_inline(text: str) -> str:
    """Return the source by which a content security policy lets one inline script or style through."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
