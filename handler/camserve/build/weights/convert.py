"""Programs as people have them on disk: exported ones are carried as they are, the rest is converted."""

from __future__ import annotations

import re
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from camserve.build.mar.file import open_mar, read_member
from camserve.errors import ConfigError, first_line
from camserve.network.program import HOW_TO_EXPORT, SUFFIX
from camserve.network.returned import tensors_in
from camserve.values import InputShape

# TorchScript runs while it is loaded and converted, and these operators write files.
WRITES_FILES = re.compile(rb"\b(?:torch|aten)\s*\.\s*(?:save|from_file)\b")
MOST_PICTURES = 64  # in one pass of an exported program


def is_program(path: Path) -> bool:
    """Say whether a file needs no model code: an exported program, or TorchScript."""
    return path.suffix == SUFFIX or _is_torchscript(path)


def stage_program(path: Path, shape: InputShape, target: Path) -> bool:
    """Copy an exported program to ``target``, or convert TorchScript to one; False if ``path`` is neither.

    ConfigError: this torch cannot convert the TorchScript, or it would write files.
    """
    if path.suffix == SUFFIX:
        shutil.copy(path, target)
        return True
    if not _is_torchscript(path):
        return False
    _check_torchscript(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated, which is why people convert
            _convert(path, shape, target)
    except Exception as error:
        raise ConfigError(
            f"{path.name} is TorchScript that torch {torch.__version__} cannot convert ({first_line(error)}); export "
            f"the model itself: {HOW_TO_EXPORT}"
        ) from None
    return True


def export_program(network: nn.Module, shape: InputShape, target: Path) -> None:
    """Write a network for pictures of ``shape`` as a program, for batches of 1 to 64.

    ConfigError: torch cannot export it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example = torch.zeros(2, *shape)  # which the file keeps: the same network gives the same bytes
            batch = torch.export.Dim("n", min=1, max=MOST_PICTURES)
            program = torch.export.export(_Plain(network).eval(), (example,), dynamic_shapes=({0: batch},))
            torch.export.save(program, str(target))
    except Exception as error:
        raise ConfigError(
            f"export: torch {torch.__version__} cannot export the network ({first_line(error)}): carry its packages "
            "with --bundle, or install them on the server"
        ) from error


class _Plain(nn.Module):
    """What a classifier returns, as plain tensors by path: other types would need their packages on the server."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor) -> Tensor | dict[str, Tensor]:
        tensors = dict(tensors_in(self.classifier(pixels)))
        return tensors.get("", tensors)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _check_torchscript(path: Path) -> None:
    with open_mar(path) as archive:
        code = [read_member(archive, name) for name in archive.namelist() if "/code/" in name and name.endswith(".py")]
    if any(map(WRITES_FILES.search, code)):
        raise ConfigError(
            f"{path.name} is TorchScript that writes files (save, from_file): export the model without these"
        )


def _convert(path: Path, shape: InputShape, target: Path) -> None:
    from torch._export.converter import TS2EPConverter

    load: Any = torch.jit.load
    scripted = load(str(path), map_location="cpu").eval()
    torch.export.save(TS2EPConverter(scripted, (torch.zeros(2, *shape),)).convert(), str(target))
