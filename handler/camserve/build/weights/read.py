"""A weights file as torch or safetensors reads it: without running code from it, unless its pickle is trusted."""

from __future__ import annotations

import argparse
import pathlib
import re
import tarfile
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from camserve.build.weights.pretrained import read_pretrained
from camserve.errors import ConfigError, first_line

HOW_TO_SAVE = "torch.save(model.state_dict(), 'weights.pt'), or safetensors"
# Before torch 2.6 weights_only did not hold for this form (CVE-2025-32434).
OLD = "has the tar form of torch 0.1, in which code may hide: save it anew with a later torch"
UNSUPPORTED = re.compile(r"Unsupported (?:global|class|operand)\S* ?(?:GLOBAL )?([\w.]+)")


def read_checkpoint(path: Path, trust_pickle: bool = False) -> object:
    """Return what weights hold: tensors in mappings, or a module where its pickle is trusted.

    ``path`` is a file, or a folder of transformers.

    ConfigError: the file cannot be read, or holds more than plain data and is not trusted.
    """
    if path.is_dir():
        return read_pretrained(path)
    if not trust_pickle and tarfile.is_tarfile(path):
        raise ConfigError(f"{path.name} {OLD}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings(), _inert_types():
            warnings.simplefilter("ignore")  # about the torch that wrote the file
            loaded: object = torch.load(path, map_location="cpu", weights_only=not trust_pickle)
        return loaded
    except Exception as error:
        raise ConfigError(_why_unreadable(path, error, trust_pickle)) from None


def _why_unreadable(path: Path, error: Exception, trusted: bool) -> str:
    found = UNSUPPORTED.search(str(error))
    if found and not trusted:
        return (
            f"{path.name} holds Python objects ({found[1]}), not tensors alone, and is not unpickled: save "
            f"{HOW_TO_SAVE}; or --trust-pickle, which runs the code in it, if you made the file yourself"
        )
    if isinstance(error, AttributeError) and trusted:
        return f"{path.name} was pickled by a script whose classes are not importable here ({first_line(error)})"
    kind = "safetensors file" if path.suffix == ".safetensors" else "file of torch.save"
    return f"{path.name} is no {kind} ({type(error).__name__}: {first_line(error)}): save {HOW_TO_SAVE}"


def _inert_types() -> AbstractContextManager[Any]:
    """Let the block read what training loops keep beside the weights and what runs nothing: options, paths, numbers."""
    allow = getattr(torch.serialization, "safe_globals", None)  # since torch 2.5
    if allow is None:
        return nullcontext()
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    # Files keep the names that these have in numpy 1 or in numpy 2.
    numpy = [
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name, function in (("scalar", scalar), ("_reconstruct", array))
    ]
    types = {type(np.dtype(code)) for code in "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]}
    found: AbstractContextManager[Any] = allow(
        [argparse.Namespace, pathlib.Path, pathlib.PosixPath, np.dtype, np.ndarray, *numpy, *types]
    )
    return found
