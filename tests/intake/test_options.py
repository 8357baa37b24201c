import itertools
import json
import time
from dataclasses import replace

import pytest

from camserve.answer.render import DRAWERS, ENCODING
from camserve.answer.render.palette import PALETTE_OF
from camserve.attribution.methods import METHODS
from camserve.choices import CONTENT_TYPES, DRAWN_FORMATS, PALETTES, PICTURE_TYPES
from camserve.errors import BadOption, UnknownClass
from camserve.intake.option_parsers import CONDITION, LABEL_CONDITION, PARSERS
from camserve.intake.options import OptionSchema
from camserve.labels import INDEX, Labels
from camserve.output_spec import line_up
from camserve.settings import Defaults, load_settings
from camserve.values import ChannelChoice, Condition, Options, RawRequest, TargetRequest

SETTINGS = load_settings(
    {
        "model": {"factory": "a:b"},
        "input": {},
        "layers": [{"name": "last"}, {"name": "first"}],
        "methods": ["gradcam", "hirescam", "layercam", "xgradcam", "eigencam"],
    }
)


def schema_of(names, settings=SETTINGS):
    return OptionSchema(settings, line_up(settings.outputs, [Labels(names)]))


SCHEMA = schema_of(["cat", "dog, hound", "bird", "fish", "cow", "pig"])

NONSENSE = (None, "", [], {}, [[]], "\r\n[METRICS]x", "x" * 1_000_000, "\u2028", -1, 1e400, True)


def parse(fields=None, **raw):
    return SCHEMA.options(RawRequest(fields=fields or {}, **raw))


def test_an_activation_takes_no_account_of_the_archives_own_evidence():
    schema = OptionSchema(replace(SETTINGS, defaults=Defaults(evidence="against")), SCHEMA.heads)
    assert schema.options(RawRequest(fields={"channels": "activation:1"})).evidence == "for"
    assert schema.options(RawRequest(fields={"channels": "1"})).evidence == "against"
    with pytest.raises(BadOption, match="leave evidence out"):
        schema.options(RawRequest(fields={"channels": "activation:1", "evidence": "against"}))


def test_a_row_that_asks_nothing_gets_the_archives_defaults():
    assert parse() == Options(formats=("grid",))
    schema = OptionSchema(replace(SETTINGS, defaults=Defaults(explain="probability<0.6", top_k="2")), SCHEMA.heads)
    assert schema.options(RawRequest()).explain == Condition("probability", "<", 0.6)
    assert schema.options(RawRequest()).top_k == 2


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("explain", "false", "explain", False),
        ("explain", True, "explain", True),
        ("explain", "margin >= 0.2", "explain", Condition("margin", ">=", 0.2)),
        ("explain", "label=hound", "explain", Condition("label", "=", 1)),
        ("target", "dog, hound", "targets", (TargetRequest("class", 1, "dog, hound"),)),
        ("target", "hound,2", "targets", (TargetRequest("class", 1, "hound"), TargetRequest("class", 2, "2"))),
        ("target", ["cat", 3], "targets", (TargetRequest("class", 0, "cat"), TargetRequest("class", 3, "3"))),
        (
            "target",
            '["dog, hound", "cat"]',
            "targets",
            (TargetRequest("class", 1, "dog, hound"), TargetRequest("class", 0, "cat")),
        ),
        ("target", "top:3", "targets", (TargetRequest("top", 3, "top:3"),)),
        ("contrast", "next", "contrast", TargetRequest("next", asked="next")),
        ("contrast", "none", "contrast", None),
        ("method", "layercam,gradcam", "methods", ("layercam", "gradcam")),
        ("layer", "first,last", "layers", ("first", "last")),
        ("channels", "all", "channels", None),
        ("channels", "3,17,3", "channels", ChannelChoice("numbers", (3, 17))),
        ("channels", [0, 5], "channels", ChannelChoice("numbers", (0, 5))),
        ("channels", 7, "channels", ChannelChoice("numbers", (7,))),
        ("channels", "top:4", "channels", ChannelChoice("top", (4,))),
        ("channels", "weights:-0.5..inf", "channels", ChannelChoice("weights", (), (-0.5, float("inf")))),
        ("channels", "activation:2", "channels", ChannelChoice("activation", (2,))),
        ("evidence", b"against", "evidence", "against"),
        ("format", bytearray(b"grid,overlay"), "formats", ("grid", "overlay")),
        ("size", "512", "size", 512),
        ("top_k", 3, "top_k", 3),
        ("details", "all", "details", frozenset({"signs", "channels", "timing"})),
        ("compat", "pytorch-grad-cam", "compat", "pytorch-grad-cam"),
        ("compat", "none", "compat", None),
        ("palette", "viridis", "palette", "viridis"),
        ("opacity", 0.25, "opacity", 0.25),
        ("legend", "true", "legend", True),
        ("box_threshold", 0.35, "box_threshold", 0.35),
        ("legend", False, "legend", False),
        ("caption", "true", "caption", True),
    ],
)
def test_an_option_is_read_the_same_from_body_header_and_path(name, value, field, expected):
    assert getattr(parse({name: value}), field) == expected
    if isinstance(value, str):
        header = {f"x-camserve-{name.replace('_', '-')}": value}
        assert getattr(parse(headers=header), field) == expected
        assert getattr(parse(path=f"{name}/{value}"), field) == expected


def test_the_body_wins_over_headers_and_headers_over_the_path():
    headers = {"x-camserve-top-k": "2"}
    assert parse({"top_k": 1}, headers=headers, path="top_k/3").top_k == 1
    assert parse(headers=headers, path="top_k/3").top_k == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": "1"}, "option 'targets' is not one of: .*; did you mean 'target'"),
        ({"method": "gradcamm"}, "did you mean 'gradcam'"),
        ({"method": "gradcam,hirescam,layercam,xgradcam"}, "at most 3"),
        ({"explain": "probability<x"}, "condition such as"),
        ({"explain": "__import__('os')"}, "condition such as"),
        ({"target": ""}, "is empty"),
        ({"target": "top:0"}, "1 to 5"),
        ({"target": "top:six"}, "takes a number"),
        ({"target": "0,1,2,3,4,5"}, "asks for 6 classes"),
        ({"target": "top:3,0,1,2"}, "asks for 6 classes"),
        ({"target": "top:4", "method": "gradcam,hirescam,layercam"}, "12 maps"),
        ({"target": {"a": 1}}, "takes a text"),
        ({"target": "[1,"}, "not a JSON list"),
        ({"target": b"\xff"}, "not UTF-8"),
        ({"size": "2000"}, "16 to 1024"),
        ({"size": "100.5"}, "whole number"),
        ({"opacity": "nan"}, "0 to 1"),
        ({"box_threshold": "1.5"}, "0 to 1"),
        ({"legend": "yes"}, "takes true or false, not 'yes'"),
        ({"caption": "yes"}, "'caption' takes true or false, not 'yes'"),
        ({"evidence": "for,against"}, "takes one value"),
        ({"compat": "captum"}, "not one of: none, pytorch-grad-cam, torchserve"),
        ({"compat": "pytorch-grad-cam", "method": "gradcam,eigencam"}, "not for eigencam"),
        ({"compat": "pytorch-grad-cam", "evidence": "signed"}, "no signed maps"),
        ({"compat": "pytorch-grad-cam", "layer": "last,first"}, "ask for one layer"),
        ({"compat": "torchserve", "target": "cat"}, "answers label and probability alone: leave out 'target'"),
        ({"layer": "middle"}, "not one of: last, first"),
        ({"channels": "top:0"}, "'channels top:K' must be 1 to 100"),
        ({"channels": "-1"}, "takes all, numbers such as 3,17, top:K, weights:LOW..HIGH or activation:NUMBER"),
        ({"channels": "3,x"}, "takes all, numbers"),
        ({"channels": "best:3"}, "takes all, numbers"),
        ({"channels": "weights:1"}, "takes all, numbers"),
        ({"channels": "weights:2..1"}, "takes all, numbers"),
        ({"channels": "weights:nan..1"}, "weights:LOW..HIGH"),
        ({"channels": "9999999"}, "must be 0 to"),
        ({"channels": ",".join(map(str, range(101)))}, "too many entries"),
        (
            {"channels": "1", "method": "layercam"},
            "layercam gives channels no weights: ask for one of gradcam, xgradcam",
        ),
        ({"channels": "1", "layer": "last,first"}, "those of one layer"),
        ({"channels": "1", "compat": "pytorch-grad-cam"}, "draws all channels"),
        ({"channels": "activation:1", "evidence": "against"}, "no evidence against a class"),
    ],
)
def test_a_wrong_option_is_answered_with_the_right_ones(fields, message):
    with pytest.raises(BadOption, match=message):
        parse(fields)


def test_the_answer_of_torchserve_is_for_requests_that_ask_for_nothing_else():
    assert parse({"compat": "torchserve", "top_k": "2"}) == Options(explain=False, compat="torchserve", top_k=2)
    with pytest.raises(BadOption, match="leave out an explanation"):
        parse({"compat": "torchserve"}, must_explain=True)
    defaults = Defaults(compat="torchserve", top_k="3")
    schema = OptionSchema(replace(SETTINGS, defaults=defaults), SCHEMA.heads)
    assert schema.options(RawRequest(headers={"accept": "*/*"})) == Options(explain=False, compat="torchserve", top_k=3)
    asking = (
        RawRequest(fields={"target": "cat"}),
        RawRequest(headers={"x-camserve-format": "boxes"}),
        RawRequest(path="explain/true"),
        RawRequest(must_explain=True),
        RawRequest(headers={"accept": "image/png"}),
    )
    for row in asking:
        assert schema.options(row).compat is None
        assert schema.options(row).explain is True


@pytest.mark.parametrize("prefix", ["", "label:"])
def test_words_of_the_options_can_be_class_names(prefix):
    schema = schema_of(["none", "next", "predicted", "a, b", "[x]"])

    def parse(**fields):
        return schema.options(RawRequest(fields=fields))

    if prefix:
        assert parse(contrast="label:none").contrast == TargetRequest("class", 0, "label:none")
        assert parse(contrast="label:next").contrast == TargetRequest("class", 1, "label:next")
        assert parse(target="label:predicted").targets == (TargetRequest("class", 2, "label:predicted"),)
        assert parse(target="label:[x]").targets == (TargetRequest("class", 4, "label:[x]"),)
        assert parse(explain="label=label:none").explain == Condition("label", "=", 0)
    else:
        assert parse(contrast="none").contrast is None
        assert parse(contrast="next").contrast.kind == "next"
        assert parse(target="predicted").targets[0].kind == "predicted"
    assert parse(target=f"{prefix}a, b").targets == (TargetRequest("class", 3, f"{prefix}a, b"),)


@pytest.mark.parametrize("name", ["giraffe", "6", "-1"])
def test_a_class_that_is_not_there_is_refused(name):
    with pytest.raises(UnknownClass):
        parse({"target": name})


def test_a_path_without_pairs_and_an_unknown_header_are_refused():
    with pytest.raises(BadOption, match="pairs"):
        parse(path="target")
    with pytest.raises(BadOption, match="option 'colour'"):
        parse(headers={"x-camserve-colour": "red"})


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", None),
        ("*/*", None),
        ("application/json", None),
        ("image/png", "PNG"),
        ("IMAGE/JPEG", "JPEG"),
        ("image/webp,*/*", "WEBP"),
        ("application/json;q=0.5,image/png", "PNG"),
        ("image/png;q=0.1,application/json", None),
        ("image/png;q=0", None),
        ("image/png;q=x", None),
        ("image/tiff", None),
    ],
)
def test_the_accept_header_decides_between_json_and_a_picture(accept, kind):
    assert parse(headers={"accept": accept}).picture == kind


def test_asking_for_a_picture_or_an_explanation_route_overrides_explain_false():
    assert parse({"explain": "false"}, must_explain=True).explain is True
    assert parse({"explain": "false"}, headers={"accept": "image/png"}).explain is True


def test_requests_without_options_share_theirs_where_route_and_picture_are_the_same():
    schema = OptionSchema(replace(SETTINGS, defaults=Defaults(compat="torchserve")), SCHEMA.heads)
    asked = {
        "nothing": RawRequest(),
        "route": RawRequest(must_explain=True),
        "picture": RawRequest(headers={"accept": "image/png"}),
        "both": RawRequest(must_explain=True, headers={"accept": "image/png"}),
    }
    found = {name: schema.options(raw) for name, raw in asked.items()}
    assert [(options.compat, options.explain, options.picture) for options in found.values()] == [
        ("torchserve", False, None),
        (None, True, None),
        (None, True, "PNG"),
        (None, True, "PNG"),
    ]
    assert all(schema.options(raw) is found[name] for name, raw in asked.items())
    assert schema.options(RawRequest(fields={"top_k": "2"})).top_k == 2
    assert schema.options(RawRequest()).top_k == 5


def test_the_names_offered_are_those_of_the_tables():
    assert set(DRAWN_FORMATS) == set(DRAWERS)
    assert {*PALETTES, "diverging", "against"} == set(PALETTE_OF)
    assert set(CONTENT_TYPES) == set(ENCODING) == {*PICTURE_TYPES.values()}
    assert set(SETTINGS.methods) <= set(METHODS)


def test_nonsense_is_accepted_or_refused_but_never_anything_else():
    for name, value in itertools.product(PARSERS, NONSENSE):
        try:
            parse({name: value})
        except (BadOption, UnknownClass) as error:
            message = str(error)
            assert message.isascii(), (name, message)
            assert message.isprintable(), (name, message)
            assert len(message) < 1000, (name, message)
            json.dumps(message)


TOO_LONG = {
    "explain": f"probability<{'1' * 100_000}x",
    "target": ["cat"] * 101,
    "contrast": "x" * 1001,
    "method": [b"x" * 1001],
    "top_k": 10**5000,
}


def test_an_option_that_is_longer_than_any_meaning_is_refused_before_it_is_read():
    for name, value in TOO_LONG.items():
        with pytest.raises(BadOption, match=f"option '{name}' (has|is) .*(limit is|64 bits)"):
            parse({name: value})
    assert parse({"target": "label:" + "cat" + " " * 500}).targets[0].number == 0


def test_the_time_to_read_a_condition_grows_no_faster_than_its_text():
    """Four times the text takes four times the time, not sixteen times."""
    for pattern, text in (
        (CONDITION, "probability<{}x"),
        (CONDITION, "margin{}<"),
        (LABEL_CONDITION, "label{}\n"),
        (INDEX, "+{}x"),
    ):
        for filler in ("1", " ", "1.", "="):
            short, long = (_seconds(pattern, text.format(filler * count)) for count in (20_000, 80_000))
            assert long < 10 * short + 1e-3, (pattern.pattern, filler)


def _seconds(pattern, text):
    def once():
        start = time.process_time()
        pattern.fullmatch(text)
        return time.process_time() - start

    return min(once() for _ in range(3))
