"""Run readers of what strangers send under a coverage-guided fuzzer, each in a process of its own for a bounded time.

Run it from a clone: scripts/studies/fuzz --seconds 60. What is found is kept in out/fuzz and printed.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["camserve.intake", "camserve.build", "camserve.settings", "camserve.strict"]):
    from camserve.build.mar.file import CONFIG, MANIFEST, check_sizes
    from camserve.build.mar.unpack import read_contents
    from camserve.intake.containers import check_parts, significant_bits, sniff
    from camserve.intake.option_parsers import PARSERS
    from camserve.intake.options import OptionSchema
    from camserve.settings import load_settings

from camserve.errors import ConfigError, RequestError
from camserve.input_spec import EXTRA_FORMATS
from camserve.labels import Labels
from camserve.output_spec import line_up
from camserve.values import RawRequest

OUT = Path(__file__).parents[2] / "out" / "fuzz"
SLOW = 10  # seconds that one input may take; instrumented code is many times slower
BLOCK: dict[str, Any] = {
    "model": {"factory": "a:b"},
    "input": {},
    "layers": [{"name": "last"}, {"name": "first"}],
    "methods": ["gradcam", "layercam"],
}
SETTINGS = load_settings(BLOCK)
SCHEMA = OptionSchema(SETTINGS, line_up(SETTINGS.outputs, [Labels(["cat", "dog, hound", "7"])]))
MANIFEST_TEXT = json.dumps({"model": {"modelName": "pets", "modelVersion": "1.0"}})
CONFIG_TEXT = json.dumps({"batchSize": 8, "camserve": BLOCK})


def fuzz_options(data: bytes) -> None:
    """Read a few options of any names and texts, as a body's fields, headers, a path and an Accept header."""
    draw = atheris.FuzzedDataProvider(data)
    names = [*PARSERS, "other"]
    fields = {}
    for _ in range(draw.ConsumeIntInRange(0, 4)):
        text: object = draw.ConsumeUnicodeNoSurrogates(draw.ConsumeIntInRange(0, 1100))
        fields[names[draw.ConsumeIntInRange(0, len(names) - 1)]] = [text] if draw.ConsumeBool() else text
    headers = {"accept": draw.ConsumeUnicodeNoSurrogates(80), "x-camserve-target": draw.ConsumeUnicodeNoSurrogates(80)}
    row = RawRequest(fields=fields, headers=headers, path=draw.ConsumeUnicodeNoSurrogates(200))
    _refuse_or_read(lambda: SCHEMA.options(row), RequestError)


def fuzz_containers(data: bytes) -> None:
    """Find the format of any bytes, and count the parts that a decoder would walk over."""

    def read() -> None:
        kind = sniff(data, EXTRA_FORMATS)
        check_parts(kind, data)
        significant_bits(kind, data)

    _refuse_or_read(read, RequestError)


def fuzz_inspect(data: bytes) -> None:
    """Read any bytes as an archive; or an archive with any manifest and any settings."""
    content = data[1:]
    if data[:1] >= b"\x80":
        manifest, _, config = content.partition(b"\0")
        content = make_archive(manifest or MANIFEST_TEXT.encode(), config or CONFIG_TEXT.encode())
    with tempfile.NamedTemporaryFile(suffix=".mar") as file:
        file.write(content)
        file.flush()
        path = Path(file.name)
        _refuse_or_read(lambda: read_contents(path), ConfigError)
        _refuse_or_read(lambda: check_sizes(path), ConfigError)


def make_archive(manifest: bytes, config: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(MANIFEST, manifest)
        archive.writestr(CONFIG, config)
    return packed.getvalue()


def _refuse_or_read(read: Callable[[], object], refusal: type[Exception]) -> None:
    """Raise what is no refusal of one line."""
    try:
        read()
    except refusal as error:
        if "\n" in str(error):
            raise AssertionError(f"more than one line: {error}") from None


PICTURES = (
    b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"GIF89a",
    b"II*\0\x08\0\0\0",
    b"RIFF____WEBP",
)
SEEDS = {
    "options": [b"\x01\x05\x03top:3", b"\x02probability<0.6", b"\x01label=dog"],
    "containers": list(PICTURES),
    "inspect": [
        b"\0" + make_archive(MANIFEST_TEXT.encode(), CONFIG_TEXT.encode()),
        b"\xff" + MANIFEST_TEXT.encode() + b"\0" + CONFIG_TEXT.encode(),
        b"\xff\0a: &a [1]\nb: [*a, 2000-01-01, 1:2:3, !!binary eA==, {? [] : 1}]",
    ],
}
TARGETS = {"options": fuzz_options, "containers": fuzz_containers, "inspect": fuzz_inspect}


def run_one(name: str, seconds: int) -> None:
    """Fuzz one target in this process, which ends with it."""
    corpus = OUT / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    flags = [f"-max_total_time={seconds}", "-max_len=4096", f"-timeout={SLOW}", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *flags, f"-artifact_prefix={OUT}/{name}-", str(corpus)], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--target", choices=TARGETS, help="one of them, in this process")
    args = parser.parse_args()
    if args.target:
        run_one(args.target, args.seconds)
    failed = 0
    for name in TARGETS:
        command = [sys.executable, __file__, "--target", name, "--seconds", str(args.seconds)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=args.seconds + 120, check=False)
        lines = [line for line in done.stderr.splitlines() if line.startswith(("Done ", "==", " === ", "Test unit"))]
        print(
            f"{name}: {'nothing found' if done.returncode == 0 else 'FAILED'}; {lines[-1] if lines else ''}", flush=True
        )
        if done.returncode:
            failed += 1
            print(done.stdout[-3000:], done.stderr[-3000:], sep="\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
