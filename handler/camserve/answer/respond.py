"""From an answer, or a refusal, to bytes that any server can send."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from camserve.choices import JSON_TYPE, TORCHSERVE
from camserve.errors import RequestError
from camserve.values import Answer, Explanation, Prediction, Response, significant
from camserve.warning_codes import WITHOUT_GRIDS, WITHOUT_PICTURES, AnswerWarning

KEPT_FIELDS = ("status", "method", "layer", "evidence", "target", "contrast", "scale", "strength", "boxes", "balance")
GRID_DIGITS = 4
COMPAT_DIGITS = 7  # who compares with another library compares to 1e-6

Body = TypeVar("Body", bound=Sized)


@dataclass(frozen=True)
class ModelName:
    """Which model answered."""

    name: str
    version: str
    weights: str  # "sha256:" and the first 12 digits
    evidence_card: str = ""  # the id of what was measured of its maps; "": nothing

    def describe(self) -> dict[str, str]:
        """Return what tells this model from others."""
        return {"name": self.name, "version": self.version, "weights": self.weights}


def respond(answer: Answer, model: ModelName, limit: int) -> Response:
    """Write an answer as compact JSON of at most ``limit`` bytes; see ``shrink_to_limit``."""
    if answer.request.options.compat == TORCHSERVE:
        return Response(200, JSON_TYPE, image_classifier_view(answer.predictions))
    return Response(200, JSON_TYPE, shrink_to_limit([_answer(answer, model)], lambda rows: write_json(rows[0]), limit))


def shrink_to_limit(answers: Sequence[Any], write: Callable[[Sequence[Any]], Body], limit: int) -> Body:
    """Return answers as ``write`` puts them together, of at most ``limit`` bytes: a longer body would end the worker.

    Where they are longer, all lose their pictures, then their grids, and say so in a warning.
    """
    for reduce in (lambda answer: answer, _without_pictures, _without_grids):
        body = write([reduce(answer) for answer in answers])
        if len(body) <= limit:
            break
    return body


def show_picture(explanation: Explanation, content_type: str, body: bytes) -> Response:
    """Return an answer that is a picture; the codes of its map's warnings go into a header."""
    codes = ",".join(sorted({warning.code for warning in explanation.warnings}))
    return Response(200, content_type, body, {"X-Camserve-Warnings": codes} if codes else {})


def refuse(error: RequestError, request_id: str) -> Response:
    """Write a refusal with its status and its stable code."""
    inner = {"code": error.code, "message": str(error), "request_id": request_id}
    return Response(error.status, JSON_TYPE, write_json({"error": inner}))


def write_json(value: object) -> bytes:
    """Write compact UTF-8 JSON. ValueError: a number is not finite."""
    return encode_text(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def encode_text(text: str) -> bytes:
    """Return a text as UTF-8; half a surrogate pair becomes what JSON itself writes for it."""
    return text.encode("utf-8", "backslashreplace")


def parse_json(body: bytes) -> Any:
    """Read back what ``write_json`` wrote."""
    return json.loads(body)


def data_uri(content_type: str, body: bytes) -> str:
    """Wrap an encoded picture so that it fits into JSON and into a page."""
    return f"data:{content_type};base64,{base64.b64encode(body).decode('ascii')}"


def _without_pictures(answer: dict[str, Any]) -> dict[str, Any]:
    return _reduced(answer, WITHOUT_PICTURES, lambda explanation: {**explanation, "images": {}})


def _without_grids(answer: dict[str, Any]) -> dict[str, Any]:
    def strip(explanation: dict[str, Any]) -> dict[str, Any]:
        return {**{name: explanation[name] for name in KEPT_FIELDS}, "images": {}, "grid": None}

    return _reduced(answer, WITHOUT_GRIDS, strip)


def _reduced(answer: dict[str, Any], warning: AnswerWarning, reduce: Callable[[Any], Any]) -> dict[str, Any]:
    if not answer.get("explanations"):
        return answer
    return {
        **answer,
        "explanations": [reduce(explanation) for explanation in answer["explanations"]],
        "warnings": [*answer["warnings"], _warning(warning)],
    }


def _answer(answer: Answer, model: ModelName) -> dict[str, Any]:
    picture = answer.request.picture
    written: dict[str, Any] = {
        "model": model.describe(),
        **({"evidence_card": model.evidence_card} if model.evidence_card else {}),
        "request_id": answer.request.request_id,
        "input": {
            "width": picture.width,
            "height": picture.height,
            "format": picture.format,
            "region": [_pixel(side) for side in answer.request.region],
        },
        **({"head": answer.head} if answer.head else {}),
        "predictions": [write_prediction(prediction) for prediction in answer.predictions],
        "explanations": [_explanation(explanation) for explanation in answer.explanations],
        "warnings": _warnings(answer),
    }
    if answer.timing_ms:
        written["timing_ms"] = {stage: round(ms, 2) for stage, ms in answer.timing_ms.items()}
    return written


def write_prediction(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as an answer shows it."""
    return {
        "index": prediction.index,
        "label": prediction.label,
        **prediction.meaning,
        "score": significant(prediction.score) if prediction.probability is None else round(prediction.score, 4),
    }


def image_classifier_view(predictions: Sequence[Prediction]) -> bytes:
    """Write predictions as TorchServe 0.12's image_classifier does: {label: probability}, of equal labels the last.

    A quantity, which it does not know, is written as its value.
    """
    numbers = {
        prediction.label: prediction.score if prediction.probability is None else prediction.probability
        for prediction in predictions
    }
    return json.dumps(numbers, indent=2).encode()


def word_meaning(prediction: Mapping[str, Any], digits: int) -> str:
    """Return what a written prediction says: its probability with so many ``digits``, or its value and unit."""
    if prediction.get("probability") is None:
        return f"{prediction['value']:g} {prediction['unit'] or ''}".strip()
    return f"{prediction['probability']:.{digits}f}"


def _explanation(explanation: Explanation) -> dict[str, Any]:
    contrast = explanation.contrast
    digits = GRID_DIGITS if explanation.compat is None else COMPAT_DIGITS
    written: dict[str, Any] = {
        "status": explanation.status,
        "method": explanation.method,
        "layer": explanation.layer,
        "evidence": explanation.evidence,
        "target": {**write_prediction(explanation.target.prediction), "asked": explanation.target.asked},
        "contrast": None if contrast is None else write_prediction(contrast),
        "grid": None if explanation.grid is None else round_all(explanation.grid, digits),
        "scale": significant(explanation.scale),
        "strength": None if explanation.strength is None else round(explanation.strength, 4),
        "boxes": [[_pixel(side) for side in box] for box in explanation.boxes],
        "images": dict(explanation.images),
        "balance": _rounded(explanation.balance),
    }
    if explanation.shown < 1:
        written["shown"] = round(explanation.shown, 4)
    if explanation.compat is not None:
        written["compat"] = explanation.compat
    return {**written, **explanation.details}


def _warnings(answer: Answer) -> list[dict[str, Any]]:
    of_row = [_warning(warning) for warning in answer.warnings]
    of_maps = [
        {**_warning(warning), "explanation": number}
        for number, explanation in enumerate(answer.explanations)
        for warning in explanation.warnings
    ]
    return of_row + of_maps


def _warning(warning: AnswerWarning) -> dict[str, Any]:
    return {"code": warning.code, "message": warning.message}


def _pixel(value: float) -> float | int:
    return int(value) if value == int(value) else round(value, 2)


def _rounded(shares: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if share is None else round(share, 4) for name, share in shares.items()}


def round_all(values: np.ndarray, digits: int) -> Any:
    """Return nested lists of numbers with so many decimals; -0.0 becomes 0.0."""
    return (np.round(values.astype(np.float64), digits) + 0.0).tolist()
