"""Programs as people have them on disk: exported ones are carried as they are, TorchScript is converted."""

from __future__ import annotations

import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from camserve.errors import ConfigError, first_line
from camserve.network.program import HOW_TO_EXPORT, SUFFIX


def is_program(path: Path) -> bool:
    """Say whether a file needs no model code: an exported program, or TorchScript."""
    return path.suffix == SUFFIX or _is_torchscript(path)


def stage_program(path: Path, size: tuple[int, int], target: Path) -> bool:
    """Copy an exported program to ``target``, or convert TorchScript to one; False if ``path`` is neither.

    ConfigError: this torch cannot convert the TorchScript.
    """
    if path.suffix == SUFFIX:
        shutil.copy(path, target)
        return True
    if not _is_torchscript(path):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated, which is why people convert
            _convert(path, size, target)
    except Exception as error:
        raise ConfigError(
            f"{path.name} is TorchScript that torch {torch.__version__} cannot convert ({first_line(error)}); export "
            f"the model itself: {HOW_TO_EXPORT}"
        ) from None
    return True


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _convert(path: Path, size: tuple[int, int], target: Path) -> None:
    from torch._export.converter import TS2EPConverter

    load: Any = torch.jit.load
    scripted = load(str(path), map_location="cpu").eval()
    torch.export.save(TS2EPConverter(scripted, (torch.randn(2, 3, *size),)).convert(), str(target))
