"""Weights as safetensors: a header of names, types and offsets, then plain numbers, no code.

A state dict also knows the version of each module that wrote it, and some modules (torchvision's MNASNet, batch
normalisation) load old ones in another way. The header keeps these versions beside the tensors.

The stock TorchServe image has no safetensors package, so the served side reads the format itself
(https://github.com/huggingface/safetensors#format); archives are written with the package.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camserve.errors import ConfigError

VERSIONS = "camserve.versions"  # of a header's metadata: {module: version} as JSON

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def load_weights(path: Path) -> OrderedDict[str, Tensor]:
    """Read a safetensors file into a state dict, with its modules' versions if it has them.

    ConfigError: it is truncated or malformed.
    """
    weights, metadata = read_safetensors(path)
    if VERSIONS in metadata:
        try:
            set_versions(weights, json.loads(metadata[VERSIONS]))
        except (ValueError, TypeError, AttributeError) as error:
            raise _malformed(path, error) from None
    return weights


def read_safetensors(path: Path) -> tuple[OrderedDict[str, Tensor], Mapping[str, str]]:
    """Return the tensors of a safetensors file and the metadata of its header. ConfigError: as for ``load_weights``."""
    try:
        data = bytearray(path.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(bytes(data[8:start]))
        metadata = dict(header.pop("__metadata__", {}))
        return OrderedDict((name, _tensor(data, start, entry)) for name, entry in header.items()), metadata
    except OSError as error:
        raise ConfigError(f"cannot read {path.name}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise _malformed(path, error) from None


def _malformed(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path.name} is not a whole safetensors file ({type(error).__name__})")


def set_versions(weights: OrderedDict[str, Tensor], versions: Mapping[str, int]) -> None:
    """Note in a state dict the version of each module that wrote it, where torch looks for it."""
    metadata: Any = {name: {"version": version} for name, version in versions.items()}
    weights._metadata = metadata  # type: ignore[attr-defined]


def versions_of(weights: Mapping[str, Tensor]) -> dict[str, int] | None:
    """Return the version of each module that wrote a state dict; None where it does not say."""
    metadata: Mapping[str, Mapping[str, int]] | None = getattr(weights, "_metadata", None)
    if metadata is None:
        return None
    return {name: entry["version"] for name, entry in metadata.items() if "version" in entry}


def _tensor(data: bytearray, start: int, entry: dict[str, list[int]]) -> Tensor:
    dtype, shape = DTYPES[str(entry["dtype"])], entry["shape"]
    first, end = entry["data_offsets"]
    if not 0 <= first <= end <= len(data) - start:
        raise ValueError("offsets beyond the file")
    if first == end:
        return torch.empty(shape, dtype=dtype)
    # The offset must be a multiple of the item size for a view; safetensors guarantees no more than bytes.
    numbers = torch.frombuffer(data[start + first : start + end], dtype=dtype)
    return numbers.reshape(shape)
