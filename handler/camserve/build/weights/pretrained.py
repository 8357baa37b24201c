"""Folders written by transformers' save_pretrained, read without a hub and without code of theirs."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from camserve.errors import ConfigError, first_line
from camserve.files import sha256

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHT_SUFFIXES = (".safetensors", ".bin")


def read_json_file(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. ConfigError: it is missing, or holds something else."""
    try:
        block = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError:
        raise ConfigError(f"there is no {path.name} in {path.parent}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(block, dict):
        raise ConfigError(f"{path} must hold an object")
    return block


def read_pretrained(folder: Path) -> Mapping[str, Any]:
    """Return the state dict of a folder: safetensors, shards, or pytorch_model.bin, by today's names.

    ConfigError: it cannot be read, or it lacks weights that would be drawn at random: those of the head.
    """
    read_json_file(folder / CONFIG)
    with offline(f"{folder} cannot be read by transformers") as transformers:
        network, loading = transformers.AutoModelForImageClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    legacy = {name: new for name in loading["unexpected_keys"] if (new := _today(name)) in loading["missing_keys"]}
    if legacy:
        network.load_state_dict({legacy[name]: tensor for name, tensor in _raw(folder, legacy)}, strict=False)
    if missing := sorted(loading["missing_keys"] - set(legacy.values())):
        raise ConfigError(
            f"{folder} has no weights for {', '.join(missing[:3])}: was the network saved without its classifier?"
        )
    state: Mapping[str, Any] = network.state_dict()
    return state


def _today(name: str) -> str:
    """Return the name that torch gives a parameter of a normalisation which TensorFlow called gamma or beta."""
    return re.sub(r"\bgamma$", "weight", re.sub(r"\bbeta$", "bias", name))


def _raw(folder: Path, names: Container[str]) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of some names as the folder's files hold them."""
    for file in _weight_files(folder):
        if file.suffix == ".safetensors":
            tensors: Mapping[str, Any] = load_file(file)
        else:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
        yield from ((name, tensor) for name, tensor in tensors.items() if name in names)


def _weight_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in WEIGHT_SUFFIXES)


def read_processor(folder: Path) -> Any:
    """Return the image processor of a folder. ConfigError: it has none."""
    if not (folder / PREPROCESSOR).is_file():
        raise ConfigError(f"{folder} has no {PREPROCESSOR}: give --preprocess")
    with offline(f"{folder / PREPROCESSOR} cannot be read by transformers") as transformers:
        return transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def digest(path: Path) -> str:
    """Return the SHA-256 of a weights file; of a folder, that of its weights files, or of the hashes of several."""
    if path.is_file():
        return sha256(path)
    hashes = [sha256(file) for file in _weight_files(path)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


@contextlib.contextmanager
def offline(failure: str) -> Iterator[Any]:
    """Yield transformers, kept from hubs and progress bars. ConfigError, with ``failure``: the block raises."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when it is imported
    try:
        transformers: Any = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ConfigError(f"{failure}: pip install {error.name}") from None
    logs = transformers.utils.logging
    verbosity = logs.get_verbosity()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield transformers
    except Exception as error:
        raise ConfigError(f"{failure}: {first_line(error)}") from error
    finally:
        logs.set_verbosity(verbosity)
