"""What a benchmark tells: where it ran, its tables and pictures, as text, JSON and files for the docs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from camserve.bench.pairs import Spread

PACKAGES = (
    "camserve",
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "torchserve",
    "captum",
    "grad-cam",
    "torchcam",
)
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Table:
    """Rows of text under a title."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A picture, to be written as NAME.svg."""

    name: str
    title: str
    svg: str


@dataclass(frozen=True)
class Report:
    """One benchmark, told."""

    name: str
    command: str
    setting: Mapping[str, str]
    tables: Sequence[Table]
    figures: Sequence[Figure]
    data: Any  # what the tables are made from: dataclasses, lists, numbers

    def text(self) -> str:
        """Write everything but the pictures as Markdown that a terminal shows well, too."""
        setting = Table("Measured on", ("what", "which"), list(self.setting.items()))
        parts = [_section(table, self.command) for table in (*self.tables, setting)]
        return f"# camserve bench: {self.name}\n\n" + "\n".join(parts)


def _section(table: Table, command: str) -> str:
    return f"## {table.title}\n\n{grid(table)}\nMade by `{command}`.\n"


def grid(table: Table) -> str:
    """Write a Markdown table with its columns aligned."""
    rows = [[str(each) for each in row] for row in (table.head, *table.rows)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(table.head))]
    lines = ["| " + " | ".join(each.ljust(width) for each, width in zip(row, widths)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def told(value: Spread | None, digits: int = 3) -> str:
    """Write a median with its quartiles."""
    if value is None:
        return NOT_MEASURED
    if value.count == 1:
        return f"{value.median:.{digits}f}"
    return f"{value.median:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


def write_json(report: Report, path: Path) -> None:
    """Write every figure; what was not measured is null."""
    block = {
        "benchmark": report.name,
        "command": report.command,
        "setting": dict(report.setting),
        "data": plain(report.data),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(block, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Return a value as JSON has it: dataclasses as objects, numbers that are none as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_docs(report: Report, folder: Path) -> list[Path]:
    """Write NAME.md and the pictures that it shows."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{report.name}.md"
    shown = [
        f"![{each.title}]({each.name}.svg)\n\n{each.title}. Made by `{report.command}`.\n" for each in report.figures
    ]
    page.write_text("\n".join([report.text(), *shown]), encoding="utf-8")
    for figure in report.figures:
        (folder / f"{figure.name}.svg").write_text(figure.svg + "\n", encoding="utf-8")
    return [page, *(folder / f"{figure.name}.svg" for figure in report.figures)]


def setting(device: torch.device) -> dict[str, str]:
    """Return what the figures depend on: the machine, how busy it was, and versions."""
    found = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": f"{_processor()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "threads": str(torch.get_num_threads()),
        "load before": f"{os.getloadavg()[0]:.1f} runnable processes in the last minute",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    if device.type == "cuda":
        found["gpu"] = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return {**found, **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", path.read_text(encoding="utf-8")) if path.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()
