"""The Open Inference Protocol as its clients expect it, through the handler as TorchServe calls it."""

import base64
import json
import struct
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from as_torchserve import EXPLAIN, REST
from camserve.serving.engines.outputs import OUTPUTS
from camserve.serving.engines.v2 import PROTOCOL

LENGTH = "Inference-Header-Content-Length"


def tensor(*data, **changes):
    return {"name": "photos", "datatype": "BYTES", "shape": [len(data)], "data": list(data), **changes}


@pytest.fixture
def infer(ask):
    """Send a v2 body; return its status and JSON."""

    def infer(*inputs, headers=EXPLAIN, **body):
        (answer,) = ask(({"body": {"inputs": list(inputs), **body}}, headers))
        return answer.status, json.loads(answer.body)

    return infer


def refusal(infer, *inputs, **body):
    status, answer = infer(*inputs, **body)
    assert status in (400, 413)
    assert isinstance(answer["error"], str)
    assert answer["request_id"] == "id-0"
    return answer["error"]


def named(answer):
    return {output["name"]: output for output in answer["outputs"]}


def read_binary(answer):
    """Return the JSON and the arrays of a binary answer, as the protocol says."""
    size = int(answer.headers[LENGTH])
    head, rest = json.loads(answer.body[:size]), answer.body[size:]
    arrays = {}
    for output in head["outputs"]:
        length = output["parameters"]["binary_data_size"]
        data, rest = rest[:length], rest[length:]
        if output["datatype"] == "BYTES":
            texts = []
            while data:
                (count,) = struct.unpack("<I", data[:4])
                texts.append(data[4 : 4 + count].decode())
                data = data[4 + count :]
            arrays[output["name"]] = np.array(texts, object).reshape(output["shape"])
        else:
            kind = {"FP32": "<f4", "INT64": "<i8"}[output["datatype"]]
            arrays[output["name"]] = np.frombuffer(data, kind).reshape(output["shape"])
    assert rest == b""
    return head, arrays


def test_a_refusal_is_a_text_with_its_code_beside_it(infer, text):
    assert "'inputs' must be a list" in refusal(infer)
    status, answer = infer(tensor("no base64!"))
    assert (status, answer["code"]) == (400, "bad_base64")
    assert "base64" in answer["error"]
    status, answer = infer(tensor("no base64!", "AAAA"))
    assert [error["code"] for error in answer["errors"]] == ["bad_base64", "unsupported_format"]
    assert answer["error"] == answer["errors"][0]["message"]


def test_a_batch_with_refused_rows_answers_each(infer, text):
    names = ("answers", "indices", "probabilities", "labels", "scale", "grid")
    outputs = [{"name": name} for name in names]
    status, answer = infer(tensor(text, "no base64!", text), outputs=outputs, parameters={"top_k": 2})
    assert status == 200
    assert [output["name"] for output in answer["outputs"]] == list(names)
    found = named(answer)
    first, second, third = map(json.loads, found["answers"]["data"])
    assert second["error"]["code"] == "bad_base64"
    assert first["predictions"] == third["predictions"]
    assert found["indices"]["data"] == [1, 2, -1, -1, 1, 2]
    assert found["labels"]["data"] == ["green", "blue", "", "", "green", "blue"]
    assert found["probabilities"]["data"][2:4] == [None, None]
    assert found["scale"]["data"][1] is None
    assert found["grid"]["shape"] == [3, 1, 4, 4]
    assert found["grid"]["data"] == [1.0] * 16 + [None] * 16 + [1.0] * 16
    assert "parameters" not in answer
    _, answer = infer(tensor(text, "no base64!", text, "AAAA"), outputs=[{"name": "indices"}])
    assert answer["parameters"] == {"refused": "1:bad_base64,3:unsupported_format"}


def test_every_output_says_what_the_answer_says(infer, text):
    parameters = {"target": "top:2", "top_k": 3}
    outputs = [{"name": name} for name in OUTPUTS if name != "values"]
    status, answer = infer(tensor(text), outputs=outputs, parameters=parameters)
    assert status == 200
    found = named(answer)
    for output in found.values():
        assert len(output["data"]) == np.prod(output["shape"])
    whole = json.loads(found["answers"]["data"][0])
    for name, field in (
        ("labels", "label"),
        ("indices", "index"),
        ("scores", "score"),
        ("probabilities", "probability"),
    ):
        assert found[name]["shape"] == [1, 3]
        assert found[name]["data"] == [prediction[field] for prediction in whole["predictions"]]
    assert found["grid"]["shape"] == [1, 2, 4, 4]
    assert found["grid"]["data"] == np.ravel([one["grid"] for one in whole["explanations"]]).tolist()
    assert found["scale"]["data"] == [one["scale"] for one in whole["explanations"]]
    assert {name: output["datatype"] for name, output in found.items()} == {
        "answers": "BYTES", "labels": "BYTES", "indices": "INT64", "probabilities": "FP32", "scores": "FP32",
        "grid": "FP32", "scale": "FP32",
    }  # fmt: skip


def test_rows_without_a_map_are_null_and_warnings_are_said(infer, text):
    outputs = [{"name": "grid"}, {"name": "scale"}]
    inputs = [tensor(text), tensor(text, parameters={"target": "red,blue", "evidence": "against"})]
    _, answer = infer(*inputs, outputs=outputs)
    assert named(answer)["grid"]["shape"] == [2, 2, 4, 4]
    assert named(answer)["grid"]["data"][16:32] == [None] * 16
    assert answer["parameters"] == {"warnings": "NO_POSITIVE_EVIDENCE"}
    _, answer = infer(tensor(text), outputs=outputs, parameters={"explain": "false"}, headers=REST)
    assert named(answer)["grid"] == {"name": "grid", "datatype": "FP32", "shape": [1, 0, 0, 0], "data": []}


def test_outputs_that_are_not_there_are_refused_with_those_that_are(infer, text):
    message = refusal(infer, tensor(text), outputs=[{"name": "score"}])
    assert "did you mean 'scores'?" in message
    assert all(name in message for name in OUTPUTS)
    assert "ask for probabilities" in refusal(infer, tensor(text), outputs=[{"name": "values"}])
    for outputs in ("scores", [3], [{}], [{"name": ["scores"]}], [{"name": "scores"}] * 99):
        refusal(infer, tensor(text), outputs=outputs)
    assert "compat" in refusal(
        infer, tensor(text), outputs=[{"name": "scores"}], parameters={"compat": "torchserve"}, headers=REST
    )
    for advice in ("classification", "shared_memory_region"):
        assert advice in refusal(infer, tensor(text), outputs=[{"name": "scores", "parameters": {advice: 3}}])
    assert "not of an output" in refusal(infer, tensor(text), outputs=[{"name": "scores", "parameters": {"top_k": 3}}])


def test_parameters_of_the_protocol_are_accepted_and_unknown_ones_named(infer, text):
    status, answer = infer(tensor(text), parameters={**dict.fromkeys(PROTOCOL, 0), "user": "x", "\u2028": 1})
    assert status == 200
    assert answer["parameters"] == {"ignored": "user,\\u2028"}
    _, answer = infer(
        tensor(text, parameters={"user": 1, "colour": 2}), outputs=[{"name": "grid", "parameters": {"z": 1}}]
    )
    assert answer["parameters"]["ignored"] == "user,colour,z"
    assert "did you mean 'method'?" in refusal(infer, tensor(text), parameters={"metod": "cam"})
    assert "did you mean 'target'?" in refusal(infer, tensor(text, parameters={"targets": "red"}))


def test_null_is_as_good_as_nothing(infer, text):
    status, answer = infer(tensor(text, shape=None, parameters=None), id=None, parameters=None, outputs=None)
    assert (status, answer["id"]) == (200, "")


@pytest.mark.parametrize("shape", [[99], [0], [2, 2], [], [-1], ["1"], [True], "1", [1] * 5, [2**40, 2**40]])
def test_a_shape_that_is_not_the_datas_is_refused(infer, text, shape):
    message = refusal(infer, tensor(text, text, shape=shape))
    assert "shape" in message


def test_the_right_shape_is_named(infer, text):
    assert "'shape' [99] is not that of its data: write [2]" in refusal(infer, tensor(text, text, shape=[99]))
    for shape in ([2], [2, 1], [1, 2]):
        assert infer(tensor(text, text, shape=shape))[0] == 200
    assert infer(tensor([text], [text], shape=[2, 1]))[0] == 200


def test_pixels_are_answered_as_the_picture_of_them(infer, colours):
    rng = np.random.default_rng(3)
    for channels in (1, 3, 4):
        pixels = rng.integers(10, 200, (2, 16, 18, channels), np.uint8)
        whole = tensor(datatype="UINT8", shape=list(pixels.shape), data=pixels.tolist())
        flat = tensor(datatype="UINT8", shape=list(pixels.shape), data=pixels.ravel().tolist())
        one = tensor(datatype="UINT8", shape=[16, 18, channels], data=pixels[1].tolist())
        encoded = []
        for picture in pixels:
            buffer = BytesIO()
            Image.fromarray(picture.squeeze()).save(buffer, "PNG")
            encoded.append(base64.b64encode(buffer.getvalue()).decode())
        wanted = [json.loads(row) for row in infer(tensor(*encoded))[1]["outputs"][0]["data"]]
        for sent, rows in ((whole, wanted), (flat, wanted), (one, wanted[1:])):
            status, answer = infer(sent)
            assert status == 200
            for found, row in zip(map(json.loads, answer["outputs"][0]["data"]), rows, strict=True):
                assert found["predictions"] == row["predictions"]
                assert found["explanations"] == row["explanations"]
                assert found["input"]["width"] == 18


@pytest.mark.parametrize(
    "wrong",
    [
        {"datatype": "FP32", "data": [0.5] * 768},
        {"datatype": None},
        {"shape": [16, 16]},
        {"shape": [16, 16, 2]},
        {"shape": None},
        {"shape": [17, 16, 3]},
        {"shape": [17, 16, 16, 3]},
        {"shape": [0, 16, 3], "data": []},
        {"shape": [2**31 - 1, 1, 3]},
        {"shape": [9_000, 9_000, 3]},
        {"shape": [3_000, 1_000, 3]},
        {"data": [256] * 768},
        {"data": [-1] * 768},
        {"data": [0.5] * 768},
        {"data": ["1"] * 768},
        {"data": [None] * 768},
        {"data": [[1, 2], 3]},
        {"data": "AAAA"},
        {"data": None},
    ],
)
def test_pixels_that_are_none_are_refused(infer, wrong):
    refusal(infer, tensor(**{"datatype": "UINT8", "shape": [16, 16, 3], "data": [0] * 768, **wrong}))


def binary(inputs, *data, **body):
    head = json.dumps({"inputs": inputs, **body}).encode()
    return {"body": bytearray(head + b"".join(data))}, {**EXPLAIN, LENGTH: str(len(head))}


def elements(*data):
    return b"".join(struct.pack("<I", len(one)) + one for one in data)


def test_binary_tensors_in_and_out(ask, infer, colours, text):
    pixels = bytes([51, 204, 102]) * 256
    data = elements(colours, colours)
    inputs = [
        tensor(shape=[2], data=None, parameters={"binary_data_size": len(data)}),
        tensor(datatype="UINT8", shape=[1, 16, 16, 3], data=None, parameters={"binary_data_size": len(pixels)}),
    ]
    names = [name for name in OUTPUTS if name != "values"]
    outputs = [{"name": name} for name in names]
    sent = binary(inputs, data, pixels, outputs=outputs, parameters={"binary_data_output": True})
    (answer,) = ask(sent)
    assert answer.status == 200
    head, arrays = read_binary(answer)
    _, expected = infer(tensor(text, text, text), outputs=outputs)
    for name, output in named(expected).items():
        assert arrays[name].shape == tuple(output["shape"])
        if name == "answers":
            assert len(arrays[name]) == 3
        elif output["datatype"] == "FP32":
            assert arrays[name].ravel() == pytest.approx(output["data"], rel=1e-6)
        else:
            assert arrays[name].ravel().tolist() == output["data"]
    assert head["model_name"] == "colours"


def test_some_outputs_in_binary_beside_others(ask, text):
    outputs = [{"name": "labels"}, {"name": "grid", "parameters": {"binary_data": True}}]
    (answer,) = ask(({"body": {"inputs": [tensor(text)], "outputs": outputs}}, EXPLAIN))
    size = int(answer.headers[LENGTH])
    labels, grid = json.loads(answer.body[:size])["outputs"]
    assert labels["data"] == ["green", "blue", "red"]
    assert len(answer.body) - size == grid["parameters"]["binary_data_size"] == 16 * 4
    assert answer.content_type == "application/octet-stream"


BROKEN = {
    "more than there is": lambda colours: binary([tensor(parameters={"binary_data_size": 9_999})], colours),
    "less than there is": lambda colours: binary([tensor("AAAA")], colours),
    "negative": lambda colours: binary([tensor(parameters={"binary_data_size": -1})], colours),
    "no number": lambda colours: binary([tensor(parameters={"binary_data_size": "8"})], colours),
    "no lengths": lambda colours: binary([tensor(parameters={"binary_data_size": len(colours)})], colours),
    "cut length": lambda colours: binary([tensor(parameters={"binary_data_size": 3})], b"\0\0\0"),
    "many empty ones": lambda colours: binary([tensor(parameters={"binary_data_size": 400_000})], bytes(400_000)),
    "header too long": lambda colours: ({"body": bytearray(b"{}")}, {**REST, LENGTH: "3"}),
    "header no number": lambda colours: ({"body": bytearray(b"{}")}, {**REST, LENGTH: "\u00b2"}),
    "header huge": lambda colours: ({"body": bytearray(b"{}")}, {**REST, LENGTH: "9" * 5_000}),
    "no JSON": lambda colours: ({"body": bytearray(colours)}, {**REST, LENGTH: "5"}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_binary_data_are_refused(ask, colours, name):
    (answer,) = ask(BROKEN[name](colours))
    assert answer.status == 400
    assert isinstance(json.loads(answer.body)["error"], str)


@pytest.mark.parametrize("in_binary", [False, True])
def test_answers_stay_within_their_size_and_say_what_was_left_out(handler, infer, ask, text, in_binary):
    limits = replace(handler._answering.pipeline.settings.limits, max_response_bytes=2_000)
    handler._answering.pipeline.settings = replace(handler._answering.pipeline.settings, limits=limits)
    body = {
        "inputs": [tensor(*[text] * 16)],
        "outputs": [{"name": "grid"}, {"name": "indices"}],
        "parameters": {"binary_data_output": in_binary, "target": "top:2"},
    }
    (answer,) = ask(({"body": body}, EXPLAIN))
    assert len(answer.body) <= 2_000
    head = json.loads(answer.body[: int(answer.headers.get(LENGTH, len(answer.body)))])
    assert "OPTION_REDUCED" in head["parameters"]["warnings"]
    assert head["outputs"][0]["shape"] == [16, 2, 0, 0]


scalars = st.none() | st.booleans() | st.integers(-9, 300) | st.floats() | st.text(max_size=9)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4), max_leaves=8)
names = st.sampled_from([*OUTPUTS, *PROTOCOL, "target", "top_k", "explain"]) | st.text(max_size=5)
parameters = st.dictionaries(names, values, max_size=3) | values
inputs = st.fixed_dictionaries(
    {
        "datatype": st.sampled_from(["BYTES", "UINT8"]) | values,
        "data": values,
        "shape": st.lists(st.integers(0, 9)) | values,
    },
    optional={"name": values, "parameters": parameters},
)
bodies = st.fixed_dictionaries(
    {"inputs": st.lists(inputs | values, max_size=3) | values},
    optional={
        "id": values,
        "parameters": parameters,
        "outputs": st.lists(st.fixed_dictionaries({"name": names}, optional={"parameters": parameters}) | values),
    },
)


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=bodies, tail=st.binary(max_size=20))
def test_fuzzed_bodies_are_refused_in_the_protocols_form(ask, body, tail):
    head = json.dumps(body).encode()
    with_tail = ({"body": bytearray(head + tail)}, {**REST, LENGTH: str(len(head))})
    for answer in ask(({"body": body}, REST), with_tail):
        assert answer.status in (400, 413, 415, 422)
        assert isinstance(json.loads(answer.body)["error"], str)
