"""A program, which needs no model code, or a checkpoint, which needs --factory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from camserve.build.locate import archive_name, find_file
from camserve.build.weights.convert import is_program
from camserve.errors import ConfigError
from camserve.values import Progress

FORM = "PROGRAM.pt2, TorchScript, or CHECKPOINT.pt with --factory"
SUFFIXES = (".pt2", ".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".tar")


def fits(text: str) -> bool:
    """Say whether a text names a file of weights."""
    return text.endswith(SUFFIXES)


def describe(text: str, given: Mapping[str, Any], report: Progress) -> dict[str, Any]:
    """Return the keys ``name`` and ``weights``. ConfigError: a checkpoint stands alone."""
    block: dict[str, Any] = {"name": archive_name(Path(text).stem), "weights": text}
    if "factory" in given:
        return block
    if is_program(find_file(text)):
        report(f"{text} is a program: it needs no model code")
        return block
    if not given.get("trust_pickle"):
        raise ConfigError(
            f"{text} holds weights alone: say whose they are, with --factory MODULE:CALLABLE, or --model-file net.py "
            "--factory NAME"
        )
    report(f"{text} has no --factory: the network in its pickle is exported")
    return {**block, "export": True}
