"""What a caller may ask, in the same words on every route, checked before any compute."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from camserve.choices import COMPARABLE, COMPATS, DETAILS, EVIDENCE, FORMATS, PALETTES, PICTURE_TYPES, TEXT_TYPES
from camserve.errors import BadOption, choose, quote, unknown_choice
from camserve.labels import Labels
from camserve.settings import Settings
from camserve.values import Condition, Options, RawRequest, TargetRequest

HEADER_PREFIX = "x-camserve-"
MAX_DEADLINE_MS = 600_000

CONDITION = re.compile(r"(probability|margin)\s*(<=|>=|<|>)\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)")
LABEL_CONDITION = re.compile(r"label\s*(!=|=)\s*(.+)")


@dataclass(frozen=True)
class OptionSchema:
    """What one archive offers: the ground on which options are checked."""

    settings: Settings
    labels: Labels

    def options(self, raw: RawRequest) -> Options:
        """Check everything a row asks for. BadOption, UnknownClass: the message names the valid values.

        Where the same option comes several ways, the body wins over headers, headers over the path.
        """
        defaults = {field.name: getattr(self.settings.defaults, field.name) for field in fields(self.settings.defaults)}
        asked = {**defaults, **_path_pairs(raw.path), **_header_pairs(raw.headers), **raw.fields}
        parsed: dict[str, Any] = {}
        for name, value in asked.items():
            parse = choose(PARSERS, name, "option")
            parsed.update(parse(_plain(value, name), self))
        options = replace(Options(picture=_accepted(raw.headers.get("accept", ""))), **parsed)
        if raw.must_explain or options.picture:
            options = replace(options, explain=True)
        self._check_total(options)
        return options

    def _check_total(self, options: Options) -> None:
        if len(options.layers) > 1 and options.evidence == "signed":
            raise BadOption(
                "the maps of several layers are fused by their maximum, which has no sign: ask for one layer"
            )
        if options.compat is not None:
            _check_comparable(options)
        maps = _count(options.targets) * len(options.methods)
        if maps > self.settings.limits.max_maps:
            raise BadOption(f"targets x methods ask for {maps} maps; the limit is {self.settings.limits.max_maps}")


def _check_comparable(options: Options) -> None:
    """Refuse what the other library does not draw, or draws differently."""
    asked = f"option 'compat': {options.compat}"
    for method in options.methods:
        if method not in COMPARABLE:
            raise BadOption(f"{asked} draws the same raw map for {', '.join(COMPARABLE)} alone, not for {method}")
    if options.evidence == "signed":
        raise BadOption(f"{asked} knows no signed maps: ask for evidence for or against")
    if len(options.layers) > 1:
        raise BadOption(f"{asked} fuses layers in another way: ask for one layer")


Parser = Callable[[object, OptionSchema], dict[str, object]]


def _path_pairs(path: str) -> dict[str, str]:
    parts = [part for part in path.split("/") if part]
    if len(parts) % 2:
        raise BadOption(f"options in the path come in pairs such as /target/tabby; {quote(parts[-1])} has no value")
    return dict(zip(parts[::2], parts[1::2]))


def _header_pairs(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name[len(HEADER_PREFIX) :].replace("-", "_"): value
        for name, value in headers.items()
        if name.startswith(HEADER_PREFIX)
    }


def _plain(value: object, name: str) -> object:
    """Return bytes as text, and text that is a JSON list as that list."""
    if isinstance(value, (bytes, bytearray)):
        try:
            value = bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            raise BadOption(f"option {quote(name)} is not UTF-8 text") from None
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadOption(f"option {quote(name)}: {quote(value)} is not a JSON list") from None
    return value


def _text(value: object, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadOption(f"option {quote(name)} takes a text, not {quote(value)}")
    return str(value).strip()


def _listed(value: object, name: str) -> list[str]:
    """Return the texts of a list, or of a text with commas."""
    parts = value if isinstance(value, list) else _text(value, name).split(",")
    texts = [_text(part, name) for part in parts]
    if not texts or not all(texts):
        raise BadOption(f"option {quote(name)} is empty")
    return list(dict.fromkeys(texts))


def _among(value: object, name: str, known: Iterable[str]) -> tuple[str, ...]:
    known = tuple(known)
    for text in (texts := _listed(value, name)):
        if text not in known:
            raise BadOption(unknown_choice(text, known, name))
    return tuple(texts)


def _one_among(value: object, name: str, known: Iterable[str]) -> str:
    found = _among(value, name, known)
    if len(found) > 1:
        raise BadOption(f"option {quote(name)} takes one value, not {len(found)}")
    return found[0]


def _number(value: object, name: str, low: float, high: float) -> float:
    text = _text(value, name)
    try:
        number = float(text)
    except ValueError:
        raise BadOption(f"option {quote(name)} takes a number, not {quote(text)}") from None
    if not low <= number <= high:  # refuses NaN too
        raise BadOption(f"option {quote(name)} must be {low:g} to {high:g}, not {quote(text)}")
    return number


def _whole(value: object, name: str, low: int, high: int) -> int:
    number = _number(value, name, low, high)
    if number != int(number):
        raise BadOption(f"option {quote(name)} takes a whole number, not {quote(value)}")
    return int(number)


def _flag(value: object, name: str) -> bool | str:
    """Return whether a value says true or false; another text is returned."""
    text = str(value) if isinstance(value, bool) else _text(value, name)
    return {"true": True, "false": False}.get(text.lower(), text)


def _legend(value: object, _menu: OptionSchema) -> dict[str, object]:
    if isinstance(flag := _flag(value, "legend"), str):
        raise BadOption(f"option 'legend' takes true or false, not {quote(flag)}")
    return {"legend": flag}


def _explain(value: object, menu: OptionSchema) -> dict[str, object]:
    text = _flag(value, "explain")
    if isinstance(text, bool):
        return {"explain": text}
    if found := CONDITION.fullmatch(text):
        return {"explain": Condition(found[1], found[2], float(found[3]))}
    if found := LABEL_CONDITION.fullmatch(text):
        return {"explain": Condition("label", found[1], menu.labels[menu.labels.find(found[2])])}
    raise BadOption(
        f"option 'explain' takes true, false, or a condition such as probability<0.6, margin<0.2 or label=cat, "
        f"not {quote(text)}"
    )


def _target(value: object, menu: OptionSchema) -> dict[str, object]:
    limit = menu.settings.limits.max_targets
    wanted: list[TargetRequest] = []
    for text in _target_texts(value, menu):
        wanted.append(_wanted(text, menu, limit))
    count = _count(wanted)
    if not 1 <= count <= limit:
        raise BadOption(f"option 'target' asks for {count} classes; 1 to {limit} are possible")
    return {"targets": tuple(dict.fromkeys(wanted))}


def _count(wanted: Iterable[TargetRequest]) -> int:
    return sum(each.number if each.kind == "top" else 1 for each in wanted)


def _target_texts(value: object, menu: OptionSchema) -> list[str]:
    """Split at commas unless the whole text is one label: labels may hold commas themselves."""
    if isinstance(value, str) and value.strip() in menu.labels:
        return [value.strip()]
    return _listed(value, "target")


def _wanted(text: str, menu: OptionSchema, limit: int) -> TargetRequest:
    if text == "predicted":
        return TargetRequest("predicted")
    if text.startswith("top:"):
        return TargetRequest("top", _whole(text[4:], "target top:K", 1, min(limit, len(menu.labels))), text)
    return TargetRequest("class", menu.labels.find(text), text)


def _contrast(value: object, menu: OptionSchema) -> dict[str, object]:
    text = value.strip() if isinstance(value, str) else _text(value, "contrast")
    if text == "none":
        return {"contrast": None}
    if text == "next":
        return {"contrast": TargetRequest("next", asked="next")}
    return {"contrast": TargetRequest("class", menu.labels.find(text), text)}


def _method(value: object, menu: OptionSchema) -> dict[str, object]:
    methods = _among(value, "method", menu.settings.methods)
    if len(methods) > menu.settings.limits.max_methods:
        raise BadOption(f"option 'method' takes at most {menu.settings.limits.max_methods} methods")
    return {"methods": methods}


def _layer(value: object, menu: OptionSchema) -> dict[str, object]:
    layers = _among(value, "layer", [layer.name for layer in menu.settings.layers])
    if len(layers) > menu.settings.limits.max_layers:
        raise BadOption(f"option 'layer' takes at most {menu.settings.limits.max_layers} layers")
    return {"layers": layers}


def _size(value: object, menu: OptionSchema) -> dict[str, object]:
    return {"size": _whole(value, "size", 16, menu.settings.limits.max_picture_side)}


def _top_k(value: object, menu: OptionSchema) -> dict[str, object]:
    return {"top_k": _whole(value, "top_k", 1, menu.settings.limits.max_top_k)}


def _deadline_ms(value: object, _menu: OptionSchema) -> dict[str, object]:
    return {"deadline_ms": _whole(value, "deadline_ms", 1, MAX_DEADLINE_MS)}


def _compat(value: object, _menu: OptionSchema) -> dict[str, object]:
    asked = _one_among(value, "compat", COMPATS)
    return {"compat": None if asked == COMPATS[0] else asked}


def _details(value: object, _menu: OptionSchema) -> dict[str, object]:
    asked = _among(value, "details", (*DETAILS, "all", "none"))
    if "all" in asked:
        return {"details": frozenset(DETAILS)}
    return {"details": frozenset(asked) - {"none"}}


PARSERS: Mapping[str, Parser] = {
    "explain": _explain,
    "target": _target,
    "contrast": _contrast,
    "method": _method,
    "layer": _layer,
    "evidence": lambda value, _: {"evidence": _one_among(value, "evidence", EVIDENCE)},
    "format": lambda value, _: {"formats": _among(value, "format", FORMATS)},
    "size": _size,
    "top_k": _top_k,
    "details": _details,
    "deadline_ms": _deadline_ms,
    "compat": _compat,
    "palette": lambda value, _: {"palette": _one_among(value, "palette", PALETTES)},
    "opacity": lambda value, _: {"opacity": _number(value, "opacity", 0, 1)},
    "legend": _legend,
}


def _accepted(accept: str) -> str | None:
    """Return the picture format that an Accept header prefers over JSON, or nothing."""
    ranked: list[tuple[float, str]] = []
    for entry in accept[:1000].lower().split(","):
        kind, _, parameters = entry.partition(";")
        found = re.search(r"q=([^;]*)", parameters)
        try:
            quality = float(found[1]) if found else 1.0
        except ValueError:
            quality = 0.0
        if kind.strip() in PICTURE_TYPES or kind.strip() in TEXT_TYPES:
            ranked.append((quality, kind.strip()))
    if not ranked:
        return None
    best = max(ranked, key=lambda each: each[0])
    return PICTURE_TYPES.get(best[1]) if best[0] > 0 else None
