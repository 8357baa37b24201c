"""The report of a benchmark: machine, tables and pictures, as text, JSON and files for the docs."""

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
from camserve.build.write_file import write_text

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
    "openvino",
    "onnxruntime",
)
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Table:
    """Rows of text under a title."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class ReportFigure:
    """A picture, to be written as NAME.svg."""

    name: str
    title: str
    svg: str


@dataclass(frozen=True)
class BenchReport:
    """One benchmark: its command, machine, tables, pictures and data."""

    name: str
    command: str
    setting: Mapping[str, str]
    tables: Sequence[Table]
    figures: Sequence[ReportFigure]
    data: Any  # what the tables are made from: dataclasses, lists, numbers

    def text(self) -> str:
        """Write everything but the pictures as Markdown that a terminal shows well, too."""
        setting = Table("Measured on", ("what", "which"), list(self.setting.items()))
        parts = [_section(table, self.command) for table in (*self.tables, setting)]
        return f"# camserve bench: {self.name}\n\n" + "\n".join(parts)


def _section(table: Table, command: str) -> str:
    return f"## {table.title}\n\n{format_table(table)}\nMade by `{command}`.\n"


def format_table(table: Table) -> str:
    """Write a Markdown table with its columns aligned."""
    rows = [[str(cell) for cell in row] for row in (table.head, *table.rows)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(table.head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def format_spread(value: Spread | None, digits: int = 3) -> str:
    """Write a median with its quartiles."""
    if value is None:
        return NOT_MEASURED
    if value.count == 1:
        return f"{value.median:.{digits}f}"
    return f"{value.median:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


def write_report_json(report: BenchReport, path: Path) -> None:
    """Write every number; one that was not measured is null. ConfigError: the file cannot be written."""
    block = {
        "benchmark": report.name,
        "command": report.command,
        "setting": dict(report.setting),
        "data": to_plain(report.data),
    }
    write_text(path, json.dumps(block, indent=1, allow_nan=False) + "\n")


def to_plain(value: Any) -> Any:
    """Return a value as JSON has it: dataclasses as objects, numbers that are none as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_docs(report: BenchReport, folder: Path) -> list[Path]:
    """Write NAME.md and the pictures that it shows."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{report.name}.md"
    shown = [
        f"![{figure.title}]({figure.name}.svg)\n\n{figure.title}. Made by `{report.command}`.\n"
        for figure in report.figures
    ]
    page.write_text("\n".join([report.text(), *shown]), encoding="utf-8")
    for figure in report.figures:
        (folder / f"{figure.name}.svg").write_text(figure.svg + "\n", encoding="utf-8")
    return [page, *(folder / f"{figure.name}.svg" for figure in report.figures)]


def describe_machine(device: torch.device) -> dict[str, str]:
    """Return what the numbers depend on: the machine, its load, and versions."""
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
