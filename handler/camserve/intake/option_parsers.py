"""One parser for each option: from a value to checked fields of ``Options``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from camserve.choices import COMPATS, DETAILS, EVIDENCE, FORMATS, PALETTES
from camserve.errors import BadOption, quote
from camserve.intake.channel_option import read_channels
from camserve.intake.option_values import (
    decode_value,
    read_flag,
    read_list,
    read_name,
    read_names,
    read_number,
    read_text,
    read_whole,
)
from camserve.labels import BY_NAME, Labels
from camserve.output_spec import Head
from camserve.settings import Defaults, Settings
from camserve.values import Condition, TargetRequest

MAX_DEADLINE_MS = 600_000
MAX_CONTEXT = 1024  # bytes of UTF-8

# Neither has two ways to read one text: else the time to refuse it would grow with the square of its length.
CONDITION = re.compile(r"(probability|margin)\s*(<=|>=|<|>)\s*((?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[-+]?[0-9]+)?)")
LABEL_CONDITION = re.compile(r"label\s*(!=|=)\s*(\S.*)", re.DOTALL)


@dataclass(frozen=True)
class Offer:
    """What one archive offers to a request."""

    settings: Settings
    heads: Sequence[Head]
    head: int = 0  # the one that a request asks

    @property
    def labels(self) -> Labels:
        """The classes that targets, contrasts and conditions name."""
        return self.heads[self.head].labels

    @property
    def quantities(self) -> bool:
        """Whether the outputs are values without an order."""
        return self.heads[self.head].spec.is_quantity

    @property
    def defaults(self) -> dict[str, object]:
        """The archive's defaults, without those about the classes of another head, and every value of a regression."""
        defaults = self.settings.defaults
        if self.head:
            explain = defaults.explain if defaults.explain in ("true", "false") else Defaults.explain
            defaults = replace(defaults, target=Defaults.target, explain=explain)
        if self.quantities and defaults.top_k == Defaults.top_k:
            defaults = replace(defaults, top_k=str(min(len(self.labels), self.settings.limits.max_top_k)))
        return {field.name: getattr(defaults, field.name) for field in fields(defaults)}


Parser = Callable[[object, Offer], dict[str, object]]


def find_head(value: object, schema: Offer) -> int:
    """Return which of the heads a request names. BadOption: there is none of that name."""
    names = [head.spec.name for head in schema.heads]
    if len(names) == 1:
        raise BadOption("option 'head': the model has one output only: leave head out")
    return names.index(read_name(decode_value(value, "head"), "head", names))


def _explain(value: object, schema: Offer) -> dict[str, object]:
    text = read_flag(value, "explain")
    if isinstance(text, bool):
        return {"explain": text}
    if schema.quantities:
        raise BadOption(
            "option 'explain' takes true or false: task regression has no probability, margin or predicted label"
        )
    if found := CONDITION.fullmatch(text):
        return {"explain": Condition(found[1], found[2], float(found[3]))}
    if found := LABEL_CONDITION.fullmatch(text):
        return {"explain": Condition("label", found[1], schema.labels.find(found[2]))}
    raise BadOption(
        f"option 'explain' takes true, false, or a condition such as probability<0.6, margin<0.2 or label=cat, "
        f"not {quote(text)}"
    )


def _target(value: object, schema: Offer) -> dict[str, object]:
    limit = schema.settings.limits.max_targets
    targets = [_target_request(text, schema, limit) for text in _target_texts(value, schema)]
    count = count_targets(targets)
    if not 1 <= count <= limit:
        raise BadOption(f"option 'target' asks for {count} classes; 1 to {limit} are possible")
    return {"targets": tuple(dict.fromkeys(targets))}


def count_targets(targets: Iterable[TargetRequest]) -> int:
    """Return how many classes are asked about, at most."""
    return sum(target.number if target.kind == "top" else 1 for target in targets)


def _target_texts(value: object, schema: Offer) -> list[str]:
    """Split at commas unless the whole text is one label: labels may hold commas themselves."""
    if isinstance(value, str) and value.strip().removeprefix(BY_NAME) in schema.labels:
        return [value.strip()]
    return read_list(value, "target")


def _target_request(text: str, schema: Offer, limit: int) -> TargetRequest:
    if text == "predicted":
        return TargetRequest("predicted")
    if text.startswith("top:"):
        if schema.quantities:
            raise BadOption("option 'target': values of task regression have no order: name outputs, not top:K")
        return TargetRequest("top", read_whole(text[4:], "target top:K", 1, min(limit, len(schema.labels))), text)
    return TargetRequest("class", schema.labels.find(text), text)


def _contrast(value: object, schema: Offer) -> dict[str, object]:
    text = value.strip() if isinstance(value, str) else read_text(value, "contrast")
    if text == "none":
        return {"contrast": None}
    if text == "next":
        if len(schema.labels) == 1:
            raise BadOption("option 'contrast': next is the runner-up, and the model has one output only")
        if schema.quantities:
            raise BadOption("option 'contrast': values of task regression have no order: name an output, not next")
        return {"contrast": TargetRequest("next", asked="next")}
    return {"contrast": TargetRequest("class", schema.labels.find(text), text)}


def _method(value: object, schema: Offer) -> dict[str, object]:
    methods = read_names(value, "method", schema.settings.methods)
    if len(methods) > schema.settings.limits.max_methods:
        raise BadOption(f"option 'method' takes at most {schema.settings.limits.max_methods} methods")
    return {"methods": methods}


def _layer(value: object, schema: Offer) -> dict[str, object]:
    layers = read_names(value, "layer", [layer.name for layer in schema.settings.layers])
    if len(layers) > schema.settings.limits.max_layers:
        raise BadOption(f"option 'layer' takes at most {schema.settings.limits.max_layers} layers")
    return {"layers": layers}


def _size(value: object, schema: Offer) -> dict[str, object]:
    return {"size": read_whole(value, "size", 16, schema.settings.limits.max_picture_side)}


def _top_k(value: object, schema: Offer) -> dict[str, object]:
    return {"top_k": read_whole(value, "top_k", 1, schema.settings.limits.max_top_k)}


def _deadline_ms(value: object, _schema: Offer) -> dict[str, object]:
    return {"deadline_ms": read_whole(value, "deadline_ms", 1, MAX_DEADLINE_MS)}


def _compat(value: object, _schema: Offer) -> dict[str, object]:
    library = read_name(value, "compat", COMPATS)
    return {"compat": None if library == COMPATS[0] else library}


def _details(value: object, _schema: Offer) -> dict[str, object]:
    details = read_names(value, "details", (*DETAILS, "all", "none"))
    if "all" in details:
        return {"details": frozenset(DETAILS)}
    return {"details": frozenset(details) - {"none"}}


def _switch(name: str) -> Parser:
    """Return the parser of an option that is on or off."""

    def parse(value: object, _schema: Offer) -> dict[str, object]:
        if isinstance(flag := read_flag(value, name), str):
            raise BadOption(f"option {quote(name)} takes true or false, not {quote(flag)}")
        return {name: flag}

    return parse


def _context(value: object, schema: Offer) -> dict[str, object]:
    text = value if isinstance(value, str) else read_text(value, "context")
    if text and schema.settings.score is None:
        raise BadOption("option 'context': the model answers about the picture alone: leave context out")
    if len(text.encode("utf-8", "surrogatepass")) > MAX_CONTEXT:
        raise BadOption(f"option 'context' takes a text of at most {MAX_CONTEXT} bytes")
    return {"context": text}


PARSERS: Mapping[str, Parser] = {
    "head": lambda _, schema: {"head": schema.head},
    "explain": _explain,
    "target": _target,
    "contrast": _contrast,
    "method": _method,
    "layer": _layer,
    "channels": lambda value, _: {"channels": read_channels(value)},
    "evidence": lambda value, _: {"evidence": read_name(value, "evidence", EVIDENCE)},
    "format": lambda value, _: {"formats": read_names(value, "format", FORMATS)},
    "size": _size,
    "top_k": _top_k,
    "details": _details,
    "deadline_ms": _deadline_ms,
    "compat": _compat,
    "palette": lambda value, _: {"palette": read_name(value, "palette", PALETTES)},
    "opacity": lambda value, _: {"opacity": read_number(value, "opacity", 0, 1)},
    "legend": _switch("legend"),
    "caption": _switch("caption"),
    "box_threshold": lambda value, _: {"box_threshold": read_number(value, "box_threshold", 0, 1)},
    "context": _context,
}
