"""The options of a request, in the same words on every route, checked before any compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from camserve.choices import COMPARABLE, COMPATS, EVIDENCE, TORCHSERVE, WEIGHING
from camserve.errors import BadOption, choose, quote
from camserve.intake.option_parsers import PARSERS, Offer, count_targets, find_head
from camserve.intake.option_sources import read_accept, read_headers, read_path
from camserve.intake.option_values import decode_text, decode_value
from camserve.values import Options, RawRequest


@dataclass(frozen=True)
class OptionSchema(Offer):
    """What one archive offers, against which options are checked."""

    def options(self, raw: RawRequest) -> Options:
        """Return the checked options of a row. BadOption, UnknownClass: the message names the valid values.

        Where an option is given several times, the body wins over headers, and headers over the path.
        """
        own = {**read_path(raw.path), **read_headers(raw.headers), **raw.fields}
        picture = read_accept(raw.headers.get("accept", ""))
        if own:
            return self._read(own, picture, raw.must_explain)
        key = picture, raw.must_explain
        if key not in self._usual:
            self._usual[key] = self._read(own, picture, raw.must_explain)
        return self._usual[key]

    @cached_property
    def _usual(self) -> dict[tuple[str | None, bool], Options]:
        """The options of requests that give none, by the picture and the route that they ask for."""
        return {}

    def _read(self, own: Mapping[str, object], picture: str | None, must_explain: bool) -> Options:
        schema = replace(self, head=find_head(own["head"], self)) if "head" in own else self
        defaults = schema.defaults
        if own or must_explain or picture:
            defaults["compat"] = _unless_plain(str(defaults["compat"]))
        parsed: dict[str, Any] = {}
        for name, value in {**defaults, **own}.items():
            parse = choose(PARSERS, name, "option")
            decode = decode_text if name == "context" else decode_value  # which may begin as a list does
            parsed.update(parse(decode(value, name), schema))
        options = replace(Options(picture=picture), **parsed)
        if "evidence" not in own and _is_against_activation(options):
            options = replace(options, evidence=EVIDENCE[0])  # "against" was the archive's default
        if options.compat == TORCHSERVE:
            _check_plain(own, options, must_explain)
            return replace(options, explain=False)
        if must_explain or options.picture:
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
        if options.channels is not None:
            self._check_channels(options)
        maps = count_targets(options.targets) * len(options.methods)
        if maps > self.settings.limits.max_maps:
            raise BadOption(f"targets x methods ask for {maps} maps; the limit is {self.settings.limits.max_maps}")

    def _check_channels(self, options: Options) -> None:
        """Refuse chosen channels where a map has no weights of channels, or is made from several layers."""
        for method in options.methods:
            if method not in WEIGHING:
                offered = ", ".join(name for name in self.settings.methods if name in WEIGHING)
                instead = f"ask for one of {offered}" if offered else "this archive has no method that does"
                raise BadOption(f"option 'channels': {method} gives channels no weights: {instead}")
        if len(self.settings.map_source(options.layers).layers) > 1:
            raise BadOption("option 'channels': the channels are those of one layer: name it with layer")
        if options.compat is not None:
            raise BadOption(f"option 'channels': compat {options.compat} draws all channels: leave one out")
        if _is_against_activation(options):
            raise BadOption("option 'channels': an activation is no evidence against a class: leave evidence out")


def _is_against_activation(options: Options) -> bool:
    is_activation = options.channels is not None and options.channels.kind == "activation"
    return is_activation and options.evidence == "against"


def _unless_plain(compat: str) -> str:
    """Return an archive's default for requests that ask for something: TorchServe's answer is for those that do not."""
    return COMPATS[0] if compat == TORCHSERVE else compat


def _check_plain(own: Mapping[str, object], options: Options, must_explain: bool) -> None:
    """Refuse what the answer of TorchServe's image_classifier has no room for."""
    beside = sorted(set(own) - {"compat", "top_k"})
    if beside or options.picture or must_explain:
        others = ", ".join(quote(name) for name in beside) or "an explanation"
        raise BadOption(f"option 'compat': {TORCHSERVE} answers label and probability alone: leave out {others}")


def _check_comparable(options: Options) -> None:
    """Refuse what the other library does not draw, or draws differently."""
    option = f"option 'compat': {options.compat}"
    for method in options.methods:
        if method not in COMPARABLE:
            raise BadOption(f"{option} draws the same raw map for {', '.join(COMPARABLE)} alone, not for {method}")
    if options.evidence == "signed":
        raise BadOption(f"{option} knows no signed maps: ask for evidence for or against")
    if len(options.layers) > 1:
        raise BadOption(f"{option} fuses layers in another way: ask for one layer")
