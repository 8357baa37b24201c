"""Predict and explain photos, with an archive in this process or with a running server."""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image

from camserve.answer.respond import word_meaning
from camserve.build.unpack import open_archive
from camserve.errors import CamserveError, ConfigError, printable
from camserve.intake.option_parsers import PARSERS
from camserve.values import RawRequest

EXAMPLE = """examples:
  camserve explain photo.jpg --archive model_store/imagenet.mar --out why.png
  camserve explain photo.jpg --url http://127.0.0.1:8080/predictions/imagenet --token TOKEN --target espresso
"""

Answer = dict[str, Any]
Ask = Callable[[Path, dict[str, object]], Answer]


class ExplainFailed(CamserveError):
    """The answer is a refusal, or none came."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--archive", type=Path, help="a .mar; needs no server")
    source.add_argument("--url", help="a model's address: http://HOST:PORT/predictions/MODEL")
    parser.add_argument("--token", help="the server's inference token (key_file.json)")
    parser.add_argument("--out", type=Path, help="where the overlay goes; a folder for several photos")
    parser.add_argument("--json", action="store_true", help="print the answer, or a list of answers")
    for name in PARSERS:
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"request option {name}")


def run(args: argparse.Namespace) -> int:
    """Ask about every photo and show the answers."""
    options = {name: getattr(args, name) for name in PARSERS if getattr(args, name) is not None}
    if args.out:
        options["format"] = ",".join(dict.fromkeys([*options.get("format", "grid").split(","), "overlay"]))
    with _archive(args.archive) if args.archive else _server(args.url, args.token) as ask:
        answers = [ask(path, options) for path in args.images]
    if args.json:
        print(json.dumps(answers[0] if len(answers) == 1 else answers))
    for path, answer in zip(args.images, answers):
        if not args.json:
            print("\n".join(map(printable, answer_lines(path, answer))))
        if args.out:
            _save_overlay(answer, _target(args.out, path, len(answers)))
    return 0


@contextmanager
def _archive(path: Path) -> Iterator[Ask]:
    with open_archive(path) as pipeline:

        def ask(image: Path, options: dict[str, object]) -> Answer:
            row = RawRequest(_read(image), options, must_explain=True, request_id=image.name)
            return _checked(image, json.loads(pipeline.answer([row])[0].body))

        yield ask


@contextmanager
def _server(url: str, token: str | None) -> Iterator[Ask]:
    with requests.Session() as session:
        if token:
            session.headers["Authorization"] = f"Bearer {token}"

        def ask(image: Path, options: dict[str, object]) -> Answer:
            body = {**options, "explain": "true"}
            try:
                response = session.post(url, files={"data": _read(image)}, data=body, timeout=60)
                return _checked(image, response.json())
            except requests.RequestException as error:
                raise ExplainFailed(f"{url} does not answer: {error}") from None

        yield ask


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def _checked(image: Path, answer: Answer) -> Answer:
    if "predictions" in answer:
        return answer
    refusal = answer.get("error", answer)
    raise ExplainFailed(f"{image}: {refusal.get('message', refusal)}")


def answer_lines(path: Path, answer: Answer) -> list[str]:
    """Return the lines that show one answer: its classes, then the peak of each map."""
    lines = [f"{path}, {answer['head']}" if "head" in answer else f"{path}"]
    lines += [
        f"  {word_meaning(prediction, 4):>7}  {prediction['label']} ({prediction['index']})"
        for prediction in answer["predictions"]
    ]
    for explanation in answer["explanations"]:
        target, contrast = explanation["target"]["label"], explanation["contrast"]
        subject = target + (f" rather than {contrast['label']}" if contrast else "")
        peak = describe_peak(explanation, answer["input"])
        lines.append(f"  {explanation['method']} {explanation['evidence']} {subject}: {peak}")
    lines += [f"  {warning['code']}: {warning['message']}" for warning in answer["warnings"]]
    return lines


def describe_peak(explanation: Answer, source: Answer) -> str:
    """Return where a map is strongest, in pixels of the uploaded picture, or the status of one that is not there."""
    if not explanation.get("grid") or explanation["status"] != "ok":
        return str(explanation["status"])
    grid = np.abs(np.array(explanation["grid"]))
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    left, top, right, bottom = source["region"]
    x = left + (column + 0.5) * (right - left) / grid.shape[1]
    y = top + (row + 0.5) * (bottom - top) / grid.shape[0]
    return f"strongest at x {x:.0f}, y {y:.0f} of {source['width']} x {source['height']}"


def _target(out: Path, image: Path, count: int) -> Path:
    if count == 1 and out.suffix:
        return out
    out.mkdir(parents=True, exist_ok=True)
    return out / f"{image.stem}.jpg"


def _save_overlay(answer: Answer, path: Path) -> None:
    overlays = [
        explanation["images"]["overlay"] for explanation in answer["explanations"] if "overlay" in explanation["images"]
    ]
    if not overlays:
        raise ExplainFailed(f"there is no map to draw into {path}")
    content = base64.b64decode(overlays[0].partition(",")[2])
    try:
        Image.open(BytesIO(content)).save(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {path}: {error}") from None
    print(f"  {path}")
