"""Bodies as real clients send them, through the handler as TorchServe calls it."""

import base64
import gc
import gzip
import json
import tracemalloc
import zlib
from dataclasses import replace
from importlib import import_module

import pytest
from ts.torch_handler.request_envelope.base import BaseEnvelope

from as_torchserve import EXPLAIN, FORM, REST, context_of
from camserve.serving.engines.torchserve import TorchServeHandler


@pytest.fixture
def v1(text):
    return {"instances": [{"data": text, "target": "red"}]}


def error(answer):
    return json.loads(answer.body)["error"]


def target(answer):
    ((row,),) = json.loads(answer.body).values()
    return row["explanations"][0]["target"]["label"]


@pytest.mark.parametrize(
    "kind", [None, "application/problem+json", "application/octet-stream", "image/jpeg", "application/json"]
)
def test_a_body_that_begins_as_json_is_json_whatever_its_header_says(ask, v1, kind):
    headers = REST if kind is None else {**REST, "Content-Type": kind}
    for before in ("", " \r\n", "\ufeff"):
        (answer,) = ask(({"body": bytearray((before + json.dumps(v1)).encode())}, headers))
        assert (answer.status, target(answer)) == (200, "red")


def test_json_that_arrives_as_text_or_as_a_part_of_a_form_is_json(ask, v1):
    written = json.dumps(v1)
    rows = [
        ({"body": written}, {**REST, "Content-Type": "text/plain"}),
        ({"data": bytearray(written.encode())}, {}),  # KServe's bridge to gRPC
        ({"data": v1}, {**REST, "Content-Type": "multipart/form-data; boundary=x"}),
        ({"data": bytearray(written.encode())}, {**REST, "Content-Type": "multipart/form-data; boundary=x"}),
    ]
    assert [target(answer) for answer in ask(*rows)] == ["red"] * 4


def deflate(data, window=15):
    packer = zlib.compressobj(wbits=window)
    return packer.compress(data) + packer.flush()


PACKED = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": deflate,
    "Deflate ": lambda data: deflate(data, -15),
}


@pytest.mark.parametrize("coding", PACKED)
def test_packed_bodies_are_unpacked(ask, v1, colours, coding):
    headers = {**EXPLAIN, "Content-Encoding": coding}
    as_json = {**headers, "Content-Type": "application/json"}
    pack = PACKED[coding]
    of_json, of_photo = ask(
        ({"body": bytearray(pack(json.dumps(v1).encode()))}, as_json), ({"body": bytearray(pack(colours))}, headers)
    )
    assert target(of_json) == "red"
    assert json.loads(of_photo.body)["input"]["format"] == "PNG"


@pytest.mark.parametrize(
    ("coding", "body", "status", "code"),
    [
        ("br", b"x", 400, "bad_encoding"),
        ("gzip, gzip", gzip.compress(b"{}", mtime=0), 400, "bad_encoding"),
        ("gzip", b"{}", 400, "bad_encoding"),
        ("deflate", b"{}", 400, "bad_encoding"),
        ("gzip", gzip.compress(b"{" * 99, mtime=0)[:-4], 400, "bad_encoding"),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"x", 400, "bad_encoding"),
        ("gzip", b"", 400, "bad_encoding"),
        ("identity", b"x", 415, "unsupported_format"),
    ],
)
def test_what_is_not_packed_as_it_says_is_refused(ask, coding, body, status, code):
    (answer,) = ask(({"body": bytearray(body)}, {**REST, "Content-Encoding": coding}))
    assert (answer.status, error(answer)["code"]) == (status, code)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_is_refused_without_being_unpacked(ask, coding):
    bomb = bytearray(PACKED[coding](bytes(64_000_000)))
    tracemalloc.start()
    (answer,) = ask(({"body": bomb}, {**REST, "Content-Encoding": coding}))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (answer.status, error(answer)["code"]) == (413, "too_many_bytes")
    assert most < 30_000_000  # some copies of the 8 MB that are allowed


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [13, 900])
@pytest.mark.parametrize("key", ["instances", "target", "data", "inputs"])
def test_deep_json_is_refused_and_no_fault_of_the_server(ask, depth, key):
    (parsed,) = ask(({"body": {key: nested(depth)}}, REST))
    (written,) = ask(({"body": bytearray(json.dumps({key: nested(depth)}).encode())}, REST))
    (part,) = ask(({"data": bytearray(b"x"), key: nested(depth)}, REST))
    for answer in (parsed, written, part):
        assert (answer.status, error(answer)["code"]) == (400, "bad_json")
        assert "deeper than 12" in error(answer)["message"]


def test_json_too_deep_to_be_parsed_or_too_long_is_refused(ask):
    deep, long = ask(({"body": bytearray(b'{"data":' + b"[" * 900_000)}, REST), ({"body": "{" + "x" * 9_000_000}, REST))
    assert error(deep)["code"] == "bad_json"
    assert (long.status, error(long)["code"]) == (413, "too_many_bytes")


def test_json_of_very_many_parts_is_refused(ask):
    many = [[]] * 1_000_001
    parsed, written = ask(({"body": {"instances": many}}, REST), ({"body": json.dumps({"instances": many})}, REST))
    for answer in (parsed, written):
        assert (answer.status, error(answer)["code"]) == (413, "too_many_bytes")
        assert "1000000 lists" in error(answer)["message"]


@pytest.mark.parametrize(
    ("part", "what"), [('{"a":1}', "100000 objects"), ('"ab"', "200000 texts"), ('{"a":{}}', "100000 objects")]
)
def test_json_whose_parts_take_many_times_its_bytes_is_refused_before_it_is_read(ask, part, what):
    """8 bytes may be an object of 230, or a name and its place of 130."""
    body = bytearray(f'{{"data":[{",".join([part] * 300_000)}]}}'.encode())
    tracemalloc.start()
    (answer,) = ask(({"body": body}, REST))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (answer.status, error(answer)["code"]) == (413, "too_many_bytes")
    assert f"more than {what}" in error(answer)["message"]
    assert peak < 4 * len(body)


def test_the_collector_does_not_visit_the_lists_of_a_body_over_and_over(ask):
    """It did so hundreds of times, a second for 3 MB."""
    body = bytearray(f'{{"data":[{",".join(["[]"] * 300_000)}]}}'.encode())
    found = []
    gc.collect()
    gc.callbacks.append(lambda phase, _: found.append(phase))
    try:
        (answer,) = ask(({"body": body}, REST))
    finally:
        gc.callbacks.pop()
    assert answer.status == 400
    assert found.count("start") < 10
    assert gc.isenabled()


@pytest.mark.parametrize("start", [b"\x89PNG\r\n\x1a\n", b"GIF89a", b"no picture"])
def test_a_refusal_frees_the_bytes_of_its_row_at_once(ask, start):
    """An exception's traceback holds them until Python's collector comes by."""
    ask(({"data": bytearray(start)}, REST))
    gc.collect()
    gc.disable()
    try:
        tracemalloc.start()
        for _ in range(3):
            (answer,) = ask(({"data": bytearray(start + bytes(400_000))}, REST))
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    finally:
        gc.enable()
    assert answer.status in (400, 415)
    assert held < 0.2e6


def test_json_in_a_form_that_the_server_has_cut_up_gets_advice(ask, v1):
    written = json.dumps(v1)
    name, _, rest = written.partition("=")
    answers = ask(({name: bytearray(rest.encode())}, FORM), ({written: bytearray()}, FORM), ({}, FORM))
    for answer in answers:
        assert (answer.status, error(answer)["code"]) == (400, "missing_image")
        assert "-H 'Content-Type: application/json'" in error(answer)["message"]


def test_base64_in_an_urlencoded_form(ask, encoded):
    colours = encoded(16, 16, color=(251, 239, 190))
    text = base64.b64encode(colours + bytes(-len(colours) % 3) + b"\xfb\xef\xbe" * 2).decode()
    assert "+" in text
    fields = {"target": bytearray(b"red")}
    bare, quoted, uri = ask(
        ({"data": bytearray(text.replace("+", " ").encode()), **fields}, FORM),
        ({"image": bytearray(text.encode()), **fields}, FORM),
        ({"data": bytearray(f"data:image/png;base64,{text}".encode())}, FORM),
    )
    assert {answer.status for answer in (bare, quoted, uri)} == {200}
    (wrong,) = ask(({"data": bytearray(b"\xff\xd8 no base64")}, FORM))
    assert error(wrong)["code"] == "bad_base64"


def test_a_compressed_form_gets_advice(ask):
    (answer,) = ask(({}, {**REST, "content-type": "multipart/form-data; boundary=x", "content-encoding": "gzip"}))
    assert "Content-Encoding" in error(answer)["message"]


def test_only_torchserves_own_describe_call_gets_the_model_description(ask, colours):
    asked = {"describe": "True", "Host": "x", "content-length": "0"}  # as the management side sends it
    card, *answers, last = ask(
        ({}, asked),
        ({"body": bytearray()}, asked),  # to /models/colours/invoke
        ({}, {**asked, "Content-Type": FORM["Content-Type"]}),
        ({}, {**REST, **asked}),
        ({"body": bytearray(colours)}, {**REST, **asked}),
    )
    assert "labels" in json.loads(card.body)
    assert [error(answer)["code"] for answer in answers] == ["missing_image"] * 3
    assert "predictions" in json.loads(last.body)


@pytest.mark.parametrize("name", ["body", "json", "kserve", "kservev2"])
def test_a_service_envelope_changes_nothing(handler, ask, v1, colours, text, name):
    module = import_module(f"ts.torch_handler.request_envelope.{name}")
    (kind,) = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
    v2 = {"inputs": [{"name": "a", "datatype": "BYTES", "shape": [1], "data": [text]}]}
    rows = [
        ({"body": v1}, REST),
        ({"body": v1}, EXPLAIN),
        ({"body": v2}, EXPLAIN),
        ({"body": {"instances": [{"data": "no base64!"}]}}, REST),
        ({"body": bytearray(colours)}, {**REST, "Accept": "image/png"}),
    ]
    answers = ask(*rows, handle=kind(handler.handle).handle)
    assert [answer.status for answer in answers] == [200, 200, 200, 400, 200]
    assert [answer.body for answer in answers] == [answer.body for answer in ask(*rows)]


def test_an_envelope_of_another_name_stays(handler):
    class Other(BaseEnvelope):
        def parse_input(self, data):
            return [row["wrapped"] for row in data]

        def format_output(self, data):
            return [b"wrapped " + one for one in data]

    (body,) = Other(handler.handle).handle([{"wrapped": {}}], context_of([REST]))
    assert body.startswith(b'wrapped {"error"')


def test_asynchronous_communication_is_refused_at_load(tmp_path):
    context = context_of([])
    manifest = {"model": {"modelName": "colours", "modelVersion": "1.0"}}
    context.manifest, context.model_yaml_config = manifest, {"asyncCommunication": True}
    context.system_properties["model_dir"] = str(tmp_path)
    with pytest.raises(RuntimeError, match=r"camserve: asyncCommunication: true .* leave it out") as refused:
        TorchServeHandler().initialize(context)
    assert "\n" not in str(refused.value)


def test_the_limit_of_a_body_follows_that_of_a_picture(handler, ask, encoded):
    settings = handler._answering.pipeline.settings
    handler._answering.pipeline.settings = replace(settings, limits=replace(settings.limits, max_bytes=1_000))
    text = base64.b64encode(encoded(16, 16, color=(1, 2, 3))).decode()
    fits, long = ask(({"body": json.dumps({"data": text})}, REST), ({"body": json.dumps({"data": "A" * 70_000})}, REST))
    assert (fits.status, long.status) == (200, 413)


@pytest.mark.parametrize("protocol", ["v1", "v2", "single"])
def test_long_lists_in_the_bodies_of_a_batch_are_not_in_memory_together(ask, text, protocol):
    long = [str(number % 1000) for number in range(25_000)]  # 1.5 MB, parsed
    body = {
        "v1": {"instances": [{"data": text}], "target": long},
        "v2": {
            "inputs": [{"name": "a", "datatype": "BYTES", "shape": [1], "data": [text]}],
            "parameters": {"target": long},
        },
        "single": {"data": text, "target": long},
    }[protocol]
    rows = [({"body": bytearray(json.dumps(body).encode())}, REST) for _ in range(8)]
    tracemalloc.start()
    answers = ask(*rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6
    for answer in answers:
        assert answer.status == 400
        assert "too many entries" in answer.body.decode()
