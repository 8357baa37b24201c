"""KServe's v2 bodies, the Open Inference Protocol: many pictures in one row, and the outputs that are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from camserve.answer.respond import parse_json, refuse, shrink_to_limit, write_json
from camserve.choices import JSON_TYPE
from camserve.errors import BadJson, BadOption, RequestError, nearest, quote, unknown_choice
from camserve.intake.option_parsers import PARSERS
from camserve.intake.option_values import cut_list
from camserve.serving.engines.envelope import Envelope, joint_status, require_list, without_accept
from camserve.serving.engines.outputs import OUTPUTS, build_output
from camserve.serving.engines.tensors import BinaryData, read_pictures
from camserve.settings import Limits
from camserve.values import RawRequest, Response

LENGTH_HEADER = "Inference-Header-Content-Length"
BINARY_TYPE = "application/octet-stream"
MAX_ID = 256  # characters of a body's own id, which the answer repeats
MOST_IGNORED = 20  # parameters whose names the answer repeats
# The protocol's own, which ask nothing of a model without state.
PROTOCOL = (
    "priority",
    "timeout",
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "content_type",
    "headers",
    "binary_data",
    "binary_data_size",
    "binary_data_output",
)
ELSEWHERE = {
    "classification": "ask for the outputs 'labels' and 'probabilities', and top_k",
    "shared_memory_region": "send the data in the body",
}


def is_v2(body: Mapping[str, object]) -> bool:
    """Whether a body of JSON is v2's."""
    return "inputs" in body and "instances" not in body


@dataclass(frozen=True)
class ReplyForm:
    """How a body wants to be answered."""

    head: Mapping[str, str]  # model_name, model_version, id
    outputs: Sequence[tuple[str, bool]]  # names, and whether in binary
    request_id: str
    ignored: Sequence[str] = ()  # names of parameters that mean nothing here

    def write(self, answers: Sequence[Response], limit: int) -> Response:
        """Put the answers to the pictures together."""
        rows = [parse_json(answer.body) for answer in answers]
        if joint_status(answers) != 200:
            return _refusal([row["error"] for row in rows], answers[0].status)
        try:
            body = shrink_to_limit(rows, self._body, limit)
        except RequestError as error:
            return refuse_v2(error, self.request_id)
        if not any(binary for _, binary in self.outputs):
            return Response(200, JSON_TYPE, body.json)
        return Response(200, BINARY_TYPE, body.json + body.binary, {LENGTH_HEADER: str(len(body.json))})

    def _body(self, rows: Sequence[dict[str, Any]]) -> _Body:
        written, binary = [], b""
        for name, in_binary in self.outputs:
            tensor = build_output(name, rows)
            if in_binary:
                described, data = tensor.to_binary()
                binary += data
            else:
                described = tensor.to_json()
            written.append(described)
        parameters = self._parameters(rows)
        beside = {"parameters": parameters} if parameters else {}
        return _Body(write_json({**self.head, **beside, "outputs": written}), binary)

    def _parameters(self, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
        """Return what numbers cannot say: rows that were refused, warnings, and what was not understood."""
        said = {"ignored": ",".join(self.ignored)}
        if all(name != "answers" for name, _ in self.outputs):
            refused = {number: row["error"]["code"] for number, row in enumerate(rows) if "error" in row}
            warnings = {warning["code"] for row in rows for warning in row.get("warnings", ())}
            said["refused"] = ",".join(f"{number}:{code}" for number, code in refused.items())
            said["warnings"] = ",".join(sorted(warnings))
        return {name: text for name, text in said.items() if text}


@dataclass(frozen=True)
class _Body:
    json: bytes
    binary: bytes

    def __len__(self) -> int:
        return len(self.json) + len(self.binary)


def refuse_v2(error: RequestError, request_id: str) -> Response:
    """Write a refusal as v2 clients read it: the text under "error", its code beside it."""
    refused = refuse(error, request_id)
    return _refusal([parse_json(refused.body)["error"]], refused.status)


def _refusal(errors: Sequence[Mapping[str, str]], status: int) -> Response:
    first = errors[0]
    body: dict[str, Any] = {"error": first["message"], "code": first["code"], "request_id": first["request_id"]}
    if len(errors) > 1:
        body["errors"] = list(errors)
    return Response(status, JSON_TYPE, write_json(body))


def open_v2(
    row: RawRequest, body: Mapping[str, object], model: tuple[str, str], limits: Limits, binary: bytes
) -> Envelope:
    """Take a v2 body apart; ``model`` is the name and version that answers.

    BadJson, BadOption, TooManyBytes, TooManyPixels.
    """
    bare, data = without_accept(row), BinaryData(binary)
    shared = _Parameters(body)
    ignored = list(shared.ignored)
    requests: list[RawRequest] = []
    for tensor in require_list(body["inputs"], "inputs", limits.max_instances):
        if not isinstance(tensor, Mapping):
            raise BadJson("each of 'inputs' must be an object with name, datatype, shape and data")
        own = _Parameters(tensor)
        ignored += own.ignored
        options = {**row.fields, **shared.options, **own.options}
        pictures = read_pictures(tensor, own.protocol.get("binary_data_size"), data, limits)
        requests += [replace(bare, image=picture, fields=options) for picture in pictures]
        if len(requests) > limits.max_instances:
            raise BadJson(f"'inputs' hold more than {limits.max_instances} pictures")
    data.check_end()
    identity = "" if body.get("id") is None else body["id"]  # typed clients write out what they leave out
    if not isinstance(identity, str) or len(identity) > MAX_ID:
        raise BadJson(f"'id' must be a text of at most {MAX_ID} characters")
    head = {"model_name": model[0], "model_version": model[1], "id": identity}
    outputs = _read_outputs(body.get("outputs"), shared.protocol.get("binary_data_output") is True, ignored)
    reply = ReplyForm(head, outputs, row.request_id, list(dict.fromkeys(ignored))[:MOST_IGNORED])
    return Envelope(tuple(requests), lambda answers: reply.write(answers, limits.max_response_bytes))


@dataclass
class _Parameters:
    """The parameters of a body or an input: camserve's options, the protocol's own, and others."""

    block: Mapping[str, object]
    options: dict[str, object] = field(default_factory=dict)
    protocol: dict[str, object] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        found = self.block.get("parameters")
        if found is None:
            return
        if not isinstance(found, Mapping):
            raise BadJson("'parameters' must be an object of options")
        for name, value in found.items():
            if name in PARSERS:
                self.options[name] = cut_list(value)
            elif name in PROTOCOL:
                self.protocol[name] = value
            else:
                self._pass_over(name)

    def _pass_over(self, name: str) -> None:
        """Accept what other servers may understand, unless it looks like a misspelt option."""
        if advice := ELSEWHERE.get(name):
            raise BadOption(f"parameter '{name}' is not served: {advice}")
        if nearest(name, PARSERS):
            raise BadOption(unknown_choice(name, PARSERS, "option"))
        self.ignored.append(quote(name)[1:-1])


def _read_outputs(outputs: object, binary: bool, ignored: list[str]) -> list[tuple[str, bool]]:
    """Return the names of the outputs asked for, each with whether in binary; of none, the answers as JSON text.

    Names of parameters that mean nothing here are added to ``ignored``.
    """
    if outputs is None or outputs == []:
        return [("answers", binary)]
    found = dict(_read_output(entry, binary, ignored) for entry in require_list(outputs, "outputs", len(OUTPUTS)))
    return list(found.items())


def _read_output(entry: object, binary: bool, ignored: list[str]) -> tuple[str, bool]:
    if not isinstance(entry, Mapping):
        raise BadJson("each of 'outputs' must be an object with the name of an output")
    name = entry.get("name")
    if not isinstance(name, str) or name not in OUTPUTS:
        raise BadJson(unknown_choice(name, OUTPUTS, "output"))
    parameters = _Parameters(entry)
    if parameters.options:
        raise BadOption("options are parameters of the body or of an input, not of an output")
    ignored += parameters.ignored
    return name, parameters.protocol.get("binary_data", binary) is True
