"""Nothing that a client sends can hurt its neighbours: at least 2,000 malformed or hostile rows beside good ones."""

import base64
import dataclasses
import json
import tracemalloc
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from ts.context import Context, RequestProcessor

import hostile
import small_networks
from camserve.answer.respond import ModelName
from camserve.errors import RequestError
from camserve.intake.decode import decode, harden_pillow
from camserve.intake.options import OptionSchema
from camserve.labels import Labels
from camserve.monitor import Monitor
from camserve.output_spec import line_up
from camserve.serving.batch import Classifier
from camserve.serving.engines.answering import Answering
from camserve.serving.engines.torchserve import TorchServeHandler
from camserve.serving.pipeline import Pipeline
from camserve.settings import Limits, load_settings
from camserve.values import RawRequest

# As on a server: Pillow's remarks on corrupt metadata are remarks.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

LIMITS = Limits()
BATCH = 60  # hostile rows beside a good one
SEED = 20261121


@pytest.fixture(autouse=True)
def hardened():
    harden_pillow()


@pytest.fixture(scope="module")
def pipeline():
    """A small network behind the whole path: what is tried here are rows, not networks."""
    small = small_networks.pooled()
    settings = load_settings(
        {
            "model": {"factory": "tests:pooled"},
            "input": {"resize": 36, "crop": small_networks.SIDE},
            "layers": [{"name": small.layer.name, "grid": [8, 8]}],
            "methods": ["gradcam", "hirescam", "layercam", "eigencam", "scorecam"],
        }
    )
    labels = Labels(["tench, Tinca tinca", "tabby", "espresso", "crane", "crane"])
    classifier = Classifier(small.network, line_up(settings.outputs, [labels]), torch.device("cpu"), {})
    return Pipeline(classifier, settings, ModelName("small", "1.0", ""), Monitor())


@pytest.fixture(scope="module")
def schema(pipeline):
    return OptionSchema(pipeline.settings, pipeline.heads)


@pytest.fixture(scope="module")
def good(coffee):
    small = Image.open(BytesIO(coffee)).resize((150, 100))
    return RawRequest(hostile.encode(small, "JPEG"), {"target": "espresso", "top_k": 1, "evidence": "signed"})


@pytest.fixture(scope="module")
def assault(pipeline, good):
    """Send hostile rows in batches with good ones; return the hostile rows' statuses."""
    (alone,) = pipeline.answer([good])
    expected = json.loads(alone.body)

    def assault(rows):
        statuses = []
        for start in range(0, len(rows), BATCH):
            bad = rows[start : start + BATCH]
            *answers, beside = pipeline.answer([*bad, good])
            assert_same(json.loads(beside.body), expected)
            assert len(answers) == len(bad)
            statuses += [answer.status for answer in answers]
            for answer in answers:
                body = json.loads(answer.body, parse_constant=pytest.fail)
                assert ("error" in body) == (answer.status != 200)
                assert answer.body.isascii() or answer.status == 200
        return statuses

    return assault


def assert_same(answer, expected):
    for got, wanted in zip(answer["predictions"], expected["predictions"], strict=True):
        assert got["index"] == wanted["index"]
        assert got["probability"] == pytest.approx(wanted["probability"], abs=1e-4)
    (got,), (wanted,) = answer["explanations"], expected["explanations"]
    assert got["status"] == "ok"
    assert np.abs(np.array(got["grid"]) - np.array(wanted["grid"])).max() <= 1e-3


def corpus(photo):
    """Return at least 2,000 hostile rows by family, each family with the statuses that it may get."""
    cut = [data[: len(data) * share // 20] for _, data in hostile.pictures(SEED) for share in range(19)]
    families = {
        "mutated pictures": (hostile.mutated(600, SEED), (200, *CLIENT_ERRORS)),
        "truncated pictures": (cut, CLIENT_ERRORS),
        "random bytes": (hostile.garbage(500, SEED), CLIENT_ERRORS),
        "other formats": (hostile.polyglots().values(), (415,)),
    }
    rows = {name: ([RawRequest(data) for data in made], statuses) for name, (made, statuses) in families.items()}
    for name in hostile.OPTION_NAMES:
        rows[f"option {name}"] = ([RawRequest(photo, {name: value}) for value in hostile.OPTION_VALUES], (200, 400))
    return rows


CLIENT_ERRORS = tuple(range(400, 500))


def test_two_thousand_hostile_rows_are_refused_or_answered_beside_good_ones(assault, good):
    statuses = {}
    for name, (rows, allowed) in corpus(good.image).items():
        statuses[name] = assault(rows)
        wrong = [at for at, status in enumerate(statuses[name]) if status not in allowed]
        assert not wrong, f"{name}: row {wrong[0]} got {statuses[name][wrong[0]]}"
    assert sum(map(len, statuses.values())) >= 2_000
    # The mutators reach behind the magic bytes: some pictures survive, many do not.
    assert 60 < statuses["mutated pictures"].count(200) < 540


def test_overlong_numbers_and_lists_are_refused(schema):
    for value in hostile.OVERLONG:
        assert outcome(lambda: schema.options(RawRequest(None, {"target": value}))) == 400, value[:20]  # noqa: B023


@pytest.mark.parametrize("name", hostile.SIZE_BOMBS)
def test_a_picture_too_large_is_refused_from_its_header(name):
    bomb = hostile.SIZE_BOMBS[name]()
    tracemalloc.start()
    with pytest.raises(RequestError) as caught:
        decode(bomb, LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.status == 413
    assert peak < 20_000_000


@pytest.mark.parametrize("name", hostile.TIME_BOMBS)
def test_a_file_that_would_keep_a_decoder_busy_is_refused_before_it_runs(name):
    with pytest.raises(RequestError) as caught:
        decode(hostile.TIME_BOMBS[name](), LIMITS)
    assert caught.value.status in (400, 415)


@pytest.mark.parametrize("name", hostile.ODDITIES)
def test_odd_files_are_answered_or_refused(name):
    assert outcome(lambda: decode(hostile.ODDITIES[name](), LIMITS)) in (200, 400)


def outcome(work):
    """Return the status of what ``work`` does; anything but a refusal is a failure of the test."""
    try:
        work()
    except RequestError as error:
        message = str(error)
        status = error.status
    else:
        return 200
    assert message.isascii()
    return status


def test_many_segments_chunks_blocks_and_scans_within_reason_are_fine():
    assert decode(hostile.jpeg(b"\xff\xe5\x00\x02" * 5_000), LIMITS).width == 32
    assert decode(hostile.png(hostile.chunk(b"teSt", b"") * 5_000), LIMITS).width == 32
    assert decode(hostile.gif_comments(5_000), LIMITS).width == 32
    assert decode(hostile.many_scans(32, 20), LIMITS).width == 32
    # A phone's motion photo: a JPEG, then a video, whose bytes may look like scans.
    assert decode(hostile.jpeg() + b"\xff\xda\x00\x04" * 10_000, LIMITS).width == 32


def test_large_pictures_of_a_batch_are_let_go_before_the_network_runs(pipeline, monkeypatch, encoded):
    held = []
    run = pipeline.runner.run

    def seen(requests):
        held.append([request.picture.image.size for request in requests])
        return run(requests)

    monkeypatch.setattr(pipeline.runner, "run", seen)
    data = encoded(2000, 1000)
    rows = [RawRequest(data), RawRequest(data, {"format": "overlay"}), RawRequest(data, {"format": "mask", "size": 40})]
    assert [answer.status for answer in pipeline.answer(rows)] == [200] * 3
    assert held == [[(1, 1), (1024, 512), (40, 20)]]
    monkeypatch.setattr(pipeline, "_at_once", 1)
    pipeline.answer([rows[0], RawRequest(b"nothing"), rows[0]])
    assert [len(sizes) for sizes in held] == [3, 1, 1]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
words = st.sampled_from([*hostile.OPTION_NAMES, "describe", "body", "data"]) | st.text(max_size=10)


@settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    fields=st.dictionaries(words, json_values, max_size=4),
    headers=st.dictionaries(words.map("x-camserve-{}".format) | st.just("accept"), st.text(max_size=30), max_size=3),
    path=st.text(max_size=30),
)
def test_fuzzed_options_are_valid_or_refused(schema, fields, headers, path):
    assert outcome(lambda: schema.options(RawRequest(None, fields, headers, path))) in (200, 400)


@pytest.fixture(scope="module")
def handle(pipeline):
    """Call the handler as TorchServe does: rows and headers in; statuses, headers and bodies out."""
    handler = TorchServeHandler()
    handler._answering = Answering(pipeline)

    def handle(*rows):
        processors = [RequestProcessor(dict(headers)) for _, headers in rows]
        context = Context("small", None, {}, 8, None, False, False)
        context.request_ids = {number: f"id-{number}" for number in range(len(rows))}
        context.request_processor = processors
        bodies = handler.handle([row for row, _ in rows], context)
        return [
            SimpleNamespace(status=processor._status_code, headers=processor._response_header, body=body)
            for processor, body in zip(processors, bodies, strict=True)
        ]

    return handle


REST = {"explain": "False", "url_path": "", "host": "x"}
JSON = {**REST, "content-type": "application/json"}

KSERVE_BODIES = [
    {"instances": None},
    {"instances": []},
    {"instances": {}},
    {"instances": [None] * 3},
    {"instances": [[[[]]]]},
    {"instances": ["x"] * 17},
    {"instances": [{"data": {"b64": {"b64": 3}}}]},
    {"inputs": "x"},
    {"inputs": [{}]},
    {"inputs": [{"datatype": "FP32", "data": [1]}]},
    {"inputs": [{"datatype": "BYTES", "data": "x"}]},
    {"inputs": [{"datatype": "BYTES", "data": ["x"], "parameters": 3}]},
    {"inputs": [{"datatype": "BYTES", "data": ["x"] * 9}] * 2},
    {"inputs": [{"datatype": "BYTES", "data": ["AAAA"]}], "id": "x" * 1_000_000},
    {"inputs": [{"datatype": "BYTES", "data": ["AAAA"]}], "id": 3},
    {"inputs": [{"datatype": "BYTES", "data": ["AAAA"]}], "id": "\ud800"},
    {"instances": ["AAAA"], "inputs": []},
    {"\ud800": "\udfff"},
    {"": ""},
    {},
]


def test_no_body_of_any_protocol_raises_out_of_the_handler(handle, good):
    fine = ({"data": bytearray(good.image)}, REST)
    rows = [({"body": body}, JSON) for body in (*KSERVE_BODIES, [], [1], 3, 2.5, True, "x", "\ud800", bytearray(b"{"))]
    rows += [({"data": value}, REST) for value in (None, {}, [], {"b64": None}, bytearray())]
    rows += [({}, REST), ({}, {**REST, "content-type": "application/x-www-form-urlencoded"})]
    rows += [({"data": bytearray(b"x"), "explain": bytearray(b"1")}, {**REST, "explain": {"content-type": "x"}})]
    first, *answers, last = handle(fine, *rows, fine)
    assert first.status == last.status == 200
    assert first.body.replace(b"id-0", b"") == last.body.replace(f"id-{len(rows) + 1}".encode(), b"")
    for (row, _), answer in zip(rows, answers, strict=True):
        assert answer.status in CLIENT_ERRORS, (row, answer.body)
        json.loads(answer.body)


def test_json_garbage_is_called_so(handle):
    (answer,) = handle(({"body": bytearray(b'{"data": ')}, JSON))
    assert json.loads(answer.body)["error"]["code"] == "bad_json"


def test_half_a_surrogate_pair_in_an_id_is_answered(handle, good):
    text = base64.b64encode(good.image).decode()
    body = {"inputs": [{"datatype": "BYTES", "data": [text]}], "id": "\ud800"}
    (answer,) = handle(({"body": body}, JSON))
    assert answer.status == 200
    assert json.loads(answer.body)["id"] == "\ud800"


@pytest.mark.parametrize("wrap", ["instances", "inputs"])
@pytest.mark.parametrize(
    ("limit", "pictures", "grids"), [(100_000, True, True), (20_000, False, True), (4_000, False, False)]
)
def test_many_instances_together_stay_within_the_size_of_an_answer(
    handle, pipeline, good, monkeypatch, wrap, limit, pictures, grids
):
    limits = dataclasses.replace(pipeline.settings.limits, max_response_bytes=limit)
    monkeypatch.setattr(pipeline, "settings", dataclasses.replace(pipeline.settings, limits=limits))
    text = base64.b64encode(good.image).decode()
    options = {"format": "overlay,heatmap,grid", "size": 150, "top_k": 1}
    body = {"instances": [text] * 4, **options}
    if wrap == "inputs":
        body = {"inputs": [{"datatype": "BYTES", "data": [text] * 4}], "parameters": options}
    (answer,) = handle(({"body": body}, JSON))
    assert answer.status == 200
    assert len(answer.body) <= limit
    joined = json.loads(answer.body)
    answers = joined["predictions"] if wrap == "instances" else list(map(json.loads, joined["outputs"][0]["data"]))
    assert len(answers) == 4
    for row in answers:
        (explanation,) = row["explanations"]
        assert (bool(explanation["images"]), explanation["grid"] is not None) == (pictures, grids)
        reduced = [warning["code"] for warning in row["warnings"] if warning["code"] == "OPTION_REDUCED"]
        assert bool(reduced) != pictures


def test_what_goes_beside_the_body_is_fixed_ascii(handle, good):
    injected = hostile.INJECTIONS[3]
    rows = [({"data": bytearray(good.image), name: injected}, REST) for name in hostile.OPTION_NAMES]
    rows += [({"data": bytearray(good.image)}, {**REST, f"x-camserve-{injected}": injected, "accept": injected})]
    for answer in handle(*rows):
        beside = json.dumps(answer.headers)
        assert beside.isascii()
        assert "forged" not in beside
