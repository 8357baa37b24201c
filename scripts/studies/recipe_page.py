"""Write docs/recipe.md: every key of a recipe, from the code that reads it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Union

from camserve.build.recipe import Expected, HeadChoice, OutputChoice, QuantiseChoice, Recipe, RecipeDefaults
from camserve.build.recipe_template import KEYS
from camserve.input_spec import InputSpec
from camserve.settings import LIMIT_RANGES, Limits, RuntimeSpec

PAGE = Path(__file__).parents[2] / "docs" / "recipe.md"
HEAD = """# Recipes

A recipe is a yaml file that says how a network is deployed; `camserve archive RECIPE.yaml` builds the archive. Paths in
it are relative to its folder. [config/models/imagenet.yaml](../config/models/imagenet.yaml) is one;
`camserve archive SOURCE … --save-recipe FILE.yaml` writes one. An unknown key or a wrong value is refused in one line.

`scripts/studies/recipe_page.py` writes this page from the code.
"""
LONGEST_EXAMPLE = 90  # characters
WORDS = {str: "text", int: "whole number", float: "number", bool: "true, false"}
SECTIONS: Mapping[str, tuple[Any, str]] = {
    "Keys": (Recipe, "Written bare. `name` and `weights` are needed."),
    "output": (OutputChoice, "Which tensor of what the network returns holds the scores ([outputs.md](outputs.md))."),
    "heads": (HeadChoice, "A block of these for each output, by its name; the first is the default."),
    "expect": (Expected, "A block of these for each sample, by its file name: what another program predicts."),
    "preprocess": (InputSpec, "How a picture becomes the network's input ([input.md](input.md))."),
    "runtime": (RuntimeSpec, "How the network is run ([performance.md](performance.md))."),
    "quantise": (
        QuantiseChoice,
        "Of `runtime.precision: int8`. What would change more is refused ([why](performance.md#openvino)).",
    ),
    "defaults": (RecipeDefaults, "In the words of a request, as texts ([options](../README.md#options))."),
    "limits": (Limits, "What a request may ask for."),
}
# One value of each key, in the order of the dataclasses.
EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "Keys": {name: example for name, (_, example) in KEYS.items()},
    "output": {"select": "heads.color", "activation": "softmax"},
    "heads": {
        "select": "1",
        "activation": "none",
        "task": "regression",
        "threshold": 0.5,
        "labels": "ages.txt",
        "units": ["years"],
    },
    "expect": {"label": "rose", "probability": 0.93, "value": 41.5},
    "preprocess": {
        "channels": 1,
        "exact": True,
        "extra_formats": ["tiff"],
        "color": "gray",
        "depth": 12,
        "resize": [320, 320],
        "crop": 224,
        "interpolation": "bicubic",
        "pad": "letterbox",
        "pad_color": [114, 114, 114],
        "scale": 255,
        "normalise": "fixed",
        "mean": [127.5],
        "std": [64.0],
        "transform": "preparing:right_half",
    },
    "runtime": {
        "mode": "openvino",
        "fast": False,
        "precision": "bf16",
        "channels_last": False,
        "threads": 2,
        "latency_ms": 300,
    },
    "quantise": {"photos": "photos", "top1_agreement": 0.97, "map_correlation": 0.98},
    "defaults": {
        "explain": "probability<0.6",
        "target": "top:2",
        "method": "layercam",
        "evidence": "signed",
        "format": "grid,overlay",
        "top_k": "3",
        "compat": "torchserve",
        "palette": "viridis",
        "opacity": "0.4",
        "legend": "true",
        "caption": "true",
        "box_threshold": "0.3",
        "context": "a photo of",
    },
    "limits": {
        **{name: 2 * value for name, value in dataclasses.asdict(Limits()).items() if value is not None},
        "max_response_bytes": 3_000_000,
        "answer_ms": 5000,
    },
}


def render_recipes() -> str:
    """Return the page, Markdown."""
    sections = [f"## {title}\n\n{text}\n\n{_table(title, spec)}" for title, (spec, text) in SECTIONS.items()]
    return "\n".join([HEAD, *sections, _serving()])


def _table(title: str, spec: Any) -> str:
    purposes = read_purposes(spec)
    hints = typing.get_type_hints(spec)
    bounds = LIMIT_RANGES if spec is Limits else {}
    lines = [
        f"| `{field.name}` | {_word_type(hints[field.name])} | {_default(field)} | "
        f"{_example(title, field.name)} | {purposes[field.name]}{_bounds(bounds.get(field.name))} |"
        for field in dataclasses.fields(spec)
    ]
    return "\n".join(["| key | type | default | example | |", "|---|---|---|---|---|", *lines, ""])


def _example(title: str, key: str) -> str:
    text = json.dumps(EXAMPLES[title][key], ensure_ascii=False)
    return f"`{text}`" if len(text) < LONGEST_EXAMPLE else f"[below](#{key})"


def _bounds(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"; {bounds[0]:,} to {bounds[1]:,}"


def read_purposes(spec: Any) -> dict[str, str]:
    """Return what each key is for: of a recipe as its template says it, of a block the comment beside its field."""
    if spec is Recipe:
        return {name: re.sub(r"docs/(\S+\.md)", r"[\1](\1)", purpose) for name, (purpose, _) in KEYS.items()}
    comments: dict[str, str] = {}
    for kind in reversed(spec.__mro__[:-1]):
        comments.update(_read_source(kind))
    return comments


def _read_source(kind: type) -> dict[str, str]:
    source = inspect.getsource(kind)
    lines = source.splitlines()
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    return {
        node.target.id: lines[(node.end_lineno or node.lineno) - 1].partition("  # ")[2].replace("``", "`")
        for node in body.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def _word_type(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Union:
        return ", or ".join(dict.fromkeys("null" if part is type(None) else _word_type(part) for part in inner))
    if origin is tuple:
        fixed = "" if inner[-1] is Ellipsis or len(inner) == 1 else f"{len(inner)} "
        return f"list of {fixed}{_word_type(inner[0])}s".replace(", or nulls", "s or null")
    if origin is dict:
        return "block" if inner[1] is Any else "block of blocks"
    return WORDS.get(hint, "block")


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        return "`{}`" if made == {} else "[below](#" + field.name + ")"
    return "needed" if field.default is dataclasses.MISSING else f"`{json.dumps(field.default)}`"


def _serving() -> str:
    keys = Recipe("any", "any").server_keys
    lines = [f"| `{name}` | `{json.dumps(value)}` |" for name, value in keys.items()]
    text = "TorchServe's own keys of `model-config.yaml`; any other of its keys is passed on."
    return "\n".join(["## serving", "", text, "", "| key | default |", "|---|---|", *lines, ""])


def examples() -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield each section's title, dataclass and examples."""
    for title, (spec, _) in SECTIONS.items():
        yield title, spec, EXAMPLES[title]


if __name__ == "__main__":
    PAGE.write_text(render_recipes(), encoding="utf-8")
