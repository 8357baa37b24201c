"""What hostile clients send: one attack a kind, each a list of requests that are sent at once, over and over."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

import hostile

LARGEST = (5_000, 4_990)  # pixels, of a picture just within the limits
JSON_HEADERS = {"Content-Type": "application/json"}
EVERY_MAP: Mapping[str, Any] = {
    "target": "top:3",
    "method": "gradcam,hirescam,layercam",
    "format": "heatmap,overlay,mask",
    "size": 1024,
}


@dataclass(frozen=True)
class HostileRequest:
    """What is posted to a model's address."""

    files: Mapping[str, bytes] | None = None
    data: Mapping[str, str] | None = None
    content: bytes | None = None  # the body, where there is no form
    headers: Mapping[str, str] = field(default_factory=dict)


def _picture(body: bytes, **options: Any) -> HostileRequest:
    return HostileRequest(files={"data": body}, data={name: str(value) for name, value in options.items()})


def _instances(body: bytes, **options: Any) -> HostileRequest:
    text = base64.b64encode(body).decode()
    return _json({"instances": [{"data": text}] * 16, **options})


def _json(body: object) -> HostileRequest:
    return HostileRequest(content=json.dumps(body).encode(), headers=JSON_HEADERS)


def _one_color(mode: str, kind: str, size: tuple[int, int] | None = None, **options: Any) -> bytes:
    return _encode(Image.new(mode, size or LARGEST, "olive" if mode != "L" else 90), kind, **options)


def _flat_png(mode: str) -> bytes:
    return _one_color(mode, "PNG", compress_level=1)


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    encoded: bytes = hostile.encode(image, kind, **options)
    return encoded


def _thumbnail(side: int = 64) -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (side, side, 3), np.uint8)
    return _encode(Image.fromarray(pixels), "JPEG")


def _corpus() -> Iterator[HostileRequest]:
    for body in (*hostile.mutated(400, 5), *hostile.garbage(100, 5), *hostile.polyglots().values()):
        yield _picture(body)


def _bombs(bombs: Mapping[str, Callable[[], bytes]]) -> Iterator[HostileRequest]:
    for make in bombs.values():
        yield _picture(make())


def _long_texts() -> Iterator[HostileRequest]:
    photo = _thumbnail()
    yield _picture(photo, explain="probability<" + "1" * 100_000 + "x")
    yield _picture(photo, explain="label=" + " " * 100_000 + "x")
    yield _picture(photo, target=",".join("9" * 4_000 for _ in range(25)))
    yield _picture(photo, target="[" * 50_000)
    yield _picture(photo, top_k="9" * 100_000)


def _injections() -> Iterator[HostileRequest]:
    photo = _thumbnail()
    for text in hostile.INJECTIONS:
        yield _picture(photo, target=text)
        yield _picture(photo, **{text: text})
        yield _json({"data": text})


ATTACKS: Mapping[str, Callable[[], list[HostileRequest]]] = {
    "500 mutated files, garbage and polyglots": lambda: list(_corpus()),
    "pictures whose headers promise up to 4 Gpx": lambda: list(_bombs(hostile.SIZE_BOMBS)),
    "files that keep decoders busy, or name one block of tags 2,000 times": lambda: list(_bombs(hostile.TIME_BOMBS)),
    "option texts of 100 kB": lambda: list(_long_texts()),
    "forged log lines and metrics in options": lambda: list(_injections()),
    "PNGs of 25 Mpx": lambda: [_picture(_flat_png("RGB")), _picture(_flat_png("RGBA"))],
    "interlaced and noisy PNGs of 4 Mpx": lambda: [_picture(_noisy_png())],
    "progressive JPEGs of 25 Mpx (294 kB)": lambda: [_picture(hostile.heavy_scans(*LARGEST))],
    "JPEGs of 25 Mpx, drawn": lambda: [_picture(_one_color("RGB", "JPEG"), format="overlay")],
    "WebPs of 16 Mpx": lambda: [_picture(_one_color("RGB", "WEBP", (5_000, 3_190), method=0))],
    "PNGs whose 1,000 EXIF tags share 2 MB": lambda: [
        _picture(hostile.png(hostile.chunk(b"eXIf", hostile.shared_tags(1_000, 2_000_000))))
    ],
    "9 maps in 3 drawn formats at 1,024 pixels": lambda: [_picture(_thumbnail(), **EVERY_MAP)],
    "slow methods for several classes": lambda: [
        _picture(_thumbnail(), target="top:3", method="ablationcam,guided_gradcam,input_x_gradient")
    ],
    "KServe bodies of 16 PNGs of 25 Mpx": lambda: [_instances(_flat_png("L"))],
    "KServe bodies of 16 thumbnails, 9 maps in 3 drawn formats each": lambda: [_instances(_thumbnail(), **EVERY_MAP)],
    "KServe bodies of 16 thumbnails that share 3 MB of targets": lambda: [
        _instances(_thumbnail(), target=[str(number % 1000) for number in range(400_000)])
    ],
    "KServe bodies nested 10,000 deep": lambda: [_json({"instances": [json.loads("[" * 900 + "]" * 900)]})],
}


def _noisy_png() -> bytes:
    pixels = np.random.default_rng(4).integers(0, 8, (1_000, 1_990, 3), np.uint8)
    return _encode(Image.fromarray(pixels), "PNG", compress_level=1)
