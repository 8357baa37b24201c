"""camserve explain."""

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

from camserve.build.unpack import open_archive
from camserve.errors import CamserveError, ConfigError
from camserve.intake.options import PARSERS
from camserve.values import RawRequest

EXAMPLE = """examples:
  camserve explain photo.jpg --archive model_store/imagenet.mar --out why.png
  camserve explain photo.jpg --url http://127.0.0.1:8080/predictions/imagenet --token TOKEN --target espresso
"""

Told = dict[str, Any]
Ask = Callable[[Path, dict[str, object]], Told]


class ExplainFailed(CamserveError):
    """The answer is a refusal, or none came."""


def add(commands: Any) -> None:
    """Describe the subcommand."""
    parser = commands.add_parser(
        "explain",
        help="ask an archive or a server about photos",
        description="Predict and explain photos, with an archive in this process or with a running server.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--archive", type=Path, help="a .mar; needs no server")
    source.add_argument("--url", help="a model's address: http://HOST:PORT/predictions/MODEL")
    parser.add_argument("--token", help="the server's inference token (key_file.json)")
    parser.add_argument("--out", type=Path, help="where the overlay goes; a folder for several photos")
    parser.add_argument("--json", action="store_true", help="print the answer, or a list of answers")
    for name in PARSERS:
        parser.add_argument(f"--{name.replace('_', '-')}", help=f"request option {name}")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Ask about every photo and show the answers."""
    options = {name: getattr(asked, name) for name in PARSERS if getattr(asked, name) is not None}
    if asked.out:
        options["format"] = ",".join(dict.fromkeys([*options.get("format", "grid").split(","), "overlay"]))
    with _archive(asked.archive) if asked.archive else _server(asked.url, asked.token) as ask:
        answers = [ask(path, options) for path in asked.images]
    if asked.json:
        print(json.dumps(answers[0] if len(answers) == 1 else answers))
    for path, told in zip(asked.images, answers):
        if not asked.json:
            print("\n".join(table(path, told)))
        if asked.out:
            _draw(told, _target(asked.out, path, len(answers)))
    return 0


@contextmanager
def _archive(path: Path) -> Iterator[Ask]:
    with open_archive(path) as pipeline:

        def ask(image: Path, options: dict[str, object]) -> Told:
            row = RawRequest(_read(image), options, must_explain=True, request_id=image.name)
            return _answer(image, json.loads(pipeline.answer([row])[0].body))

        yield ask


@contextmanager
def _server(url: str, token: str | None) -> Iterator[Ask]:
    with requests.Session() as session:
        if token:
            session.headers["Authorization"] = f"Bearer {token}"

        def ask(image: Path, options: dict[str, object]) -> Told:
            try:
                answer = session.post(
                    url, files={"data": _read(image)}, data={**options, "explain": "true"}, timeout=60
                )
                return _answer(image, answer.json())
            except requests.RequestException as error:
                raise ExplainFailed(f"{url} does not answer: {error}") from None

        yield ask


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def _answer(image: Path, told: Told) -> Told:
    if "predictions" in told:
        return told
    refusal = told.get("error", told)
    raise ExplainFailed(f"{image}: {refusal.get('message', refusal)}")


def table(path: Path, told: Told) -> list[str]:
    """Return the lines that show one answer: classes, then where each map looked."""
    lines = [f"{path}"]
    lines += [f"  {each['probability']:7.4f}  {each['label']} ({each['index']})" for each in told["predictions"]]
    for each in told["explanations"]:
        target = each["target"]["label"] + (f" rather than {each['contrast']['label']}" if each["contrast"] else "")
        lines.append(f"  {each['method']} {each['evidence']} {target}: {where(each, told['input'])}")
    lines += [f"  {each['code']}: {each['message']}" for each in told["warnings"]]
    return lines


def where(explanation: Told, source: Told) -> str:
    """Say where a map is strongest, in pixels of the uploaded picture."""
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


def _draw(told: Told, path: Path) -> None:
    drawn = [each["images"]["overlay"] for each in told["explanations"] if "overlay" in each["images"]]
    if not drawn:
        raise ExplainFailed(f"there is no map to draw into {path}")
    data = base64.b64decode(drawn[0].partition(",")[2])
    try:
        Image.open(BytesIO(data)).save(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {path}: {error}") from None
    print(f"  {path}")
