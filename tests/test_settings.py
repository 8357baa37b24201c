from dataclasses import fields

import pytest

from camserve.errors import ConfigError
from camserve.settings import AUDIT_RANGES, LIMIT_RANGES, RUNTIME_RANGES, AuditSpec, Limits, RuntimeSpec, load_settings
from camserve.values import Layer

GOOD = {"model": {"factory": "a:b"}, "input": {"resize": 256}, "layers": [{"name": "features", "grid": [7, 7]}]}


def test_a_block_becomes_settings():
    settings = load_settings(GOOD)
    assert settings.layers == (Layer("features", grid=(7, 7)),)
    assert settings.input.shape == (3, 224, 224)
    assert settings.limits.max_targets == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modle": {}}, r"camserve: unknown key 'modle'; did you mean 'model'\?"),
        ({"model": {}}, r"model\.factory is missing"),
        ({"model": {"factory": 3}}, r"camserve\.model\.factory must be a text or null, not the int '3'"),
        ({"outputs": [{"task": "clustering"}]}, r"outputs\[0\]: task 'clustering' is not one of: multiclass"),
        ({"outputs": []}, "outputs must describe at least one"),
        ({"outputs": [{}, {"name": "a"}]}, "outputs must each have a name of its own"),
        ({"outputs": [{"name": "a"}, {"name": "a"}]}, "outputs must each have a name of its own"),
        ({"outputs": [{"task": "regression"}], "monitoring": {"low_confidence": 0.5}}, "low_confidence has no use"),
        ({"layers": []}, "at least one target layer"),
        ({"layers": [{"name": "x", "layout": "CHW"}]}, "layout 'CHW' is not one of"),
        ({"layers": [{"name": "x", "grid": [7]}]}, "a list of 2, not of 1"),
        ({"limits": {"max_targets": True}}, "max_targets must be a whole number"),
        ({"limits": {"max_pixels": -1}}, r"camserve\.limits: max_pixels must be 1 to 1,000,000,000, not -1"),
        ({"limits": {"answer_ms": 10**9}}, "answer_ms must be 1 to 600,000, not 1000000000"),
        ({"limits": {"max_response_bytes": 2**31}}, "max_response_bytes must be 1 to 2,000,000,000, not 2147483648"),
        ({"limits": {"min_side": 200, "max_side": 100}}, "min_side 200 is above max_side 100"),
        ({"runtime": {"threads": 0}}, "threads must be 1 to 1,024, not 0"),
        ({"monitoring": {"low_confidence": float("nan")}}, "low_confidence must be 0 to 1, not nan"),
        ({"monitoring": {"audit": {"directory": "/x", "rate": float("nan")}}}, "rate must be 0 to 1, not nan"),
        ({"monitoring": {"audit": {"directory": "/x", "max_bytes": -1}}}, "max_bytes must be 0 to 1,000,"),
        ({"outputs": [{"threshold": 2}]}, "threshold must be 0 to 1, not 2"),
        ({"input": {"mean": [0, 0, "x"]}}, r"input\.mean\[2\] must be a number"),
        ({"input": {"channels": 1}}, "input.color rgb has 3 channels, and input.channels is 1: name gray"),
        ({"input": {"resize": [1, 2, 3]}}, r"input\.resize must be a whole number or a list or null"),
        ({"defaults": {"top_k": 5}}, r"defaults\.top_k must be a text"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        load_settings({**GOOD, **change})


@pytest.mark.parametrize("block", [None, "text", [1]])
def test_something_else_than_a_block_is_refused(block):
    with pytest.raises(ConfigError, match="must be a block of keys"):
        load_settings(block)


RANGES = [(Limits, LIMIT_RANGES), (AuditSpec, AUDIT_RANGES), (RuntimeSpec, RUNTIME_RANGES)]


@pytest.mark.parametrize(("spec", "ranges"), RANGES)
def test_every_number_has_a_range_that_holds_its_default(spec, ranges):
    numbers = {field.name: field.default for field in fields(spec) if "int" in field.type or "float" in field.type}
    assert list(numbers) == list(ranges)
    assert all(default is None or ranges[name][0] <= default <= ranges[name][1] for name, default in numbers.items())
