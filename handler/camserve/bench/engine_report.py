"""The engine benchmark's tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from camserve.bench.engine import EngineCell, TableName
from camserve.bench.plots import plot_bars, plot_curves
from camserve.bench.report import NOT_MEASURED, BenchReport, ReportFigure, Table, format_spread

TITLES: Mapping[TableName, str] = {
    "overhead": "Time of an explained forward pass / of a plain one: median of paired runs (quartiles)",
    "targets": "Time of explaining several classes of each row / one class, batch {batch}",
    "memory": "Peak memory of an explained pass / of a plain one, beyond the loaded model, batch {batch}",
    "peers": "Time of predictions and maps of the predicted classes / of predictions alone, batch {batch}",
    "openvino": "Time / of OpenVINO's plain prediction of the same precision with as many threads, batch {batch}",
}


def make_engine_report(name: str, cells: Sequence[EngineCell], command: str, setting: Mapping[str, str]) -> BenchReport:
    """Return the tables and the pictures of an engine benchmark."""
    tables = [table for title in TITLES for table in _tables(cells, title)]
    return BenchReport(name, command, setting, tables, list(_figures(name, cells)), cells)


def _tables(cells: Sequence[EngineCell], name: TableName) -> Iterator[Table]:
    mine = [cell for cell in cells if cell.table == name]
    if not mine:
        return
    several = name == "overhead"
    columns = list(dict.fromkeys(_column(cell, several) for cell in mine))
    found = {(cell.model, _column(cell, several)): cell for cell in mine}
    models = list(dict.fromkeys(cell.model for cell in mine))
    head = [
        "model",
        *columns,
        *(f"plain ms, {column}" if several else _base(name) for column in columns[: None if several else 1]),
    ]
    rows = []
    for model in models:
        row = [found.get((model, column)) for column in columns]
        based = row if several else [next((cell for cell in row if cell and cell.base), None)]
        rows.append([model, *(_ratio(cell) for cell in row), *(_amount(name, cell) for cell in based)])
    yield Table(TITLES[name].format(batch=mine[0].batch), head, rows)


def _column(cell: EngineCell, several: bool) -> str:
    return f"batch {cell.batch}" if several else cell.what


def _base(name: TableName) -> str:
    return {"memory": "plain MB", "targets": "1 class ms"}.get(name, "plain ms")


def _ratio(cell: EngineCell | None) -> str:
    if cell is None:
        return NOT_MEASURED
    return cell.reason if cell.ratio is None else format_spread(cell.ratio)


def _amount(name: TableName, cell: EngineCell | None) -> str:
    if cell is None or cell.base is None:
        return ""
    return f"{cell.base.median / 1e6:.0f}" if name == "memory" else f"{cell.base.median * 1000:.1f}"


def _figures(name: str, cells: Sequence[EngineCell]) -> Iterator[ReportFigure]:
    measured = [cell for cell in cells if cell.ratio is not None]
    overhead = [cell for cell in measured if cell.table == "overhead"]
    if overhead:
        batches = sorted({cell.batch for cell in overhead})
        drawn = plot_curves(_by_model(overhead), ("photos a batch", "explained / plain"), marks=batches, level=1.0)
        yield ReportFigure(
            f"{name}-overhead", "Time of an explained forward pass over a plain one, by batch size", drawn
        )
    further = [cell for cell in measured if cell.table == "targets"]
    if further:
        marks = sorted({1, *(_classes(cell) for cell in further)})
        drawn = plot_curves(_by_targets(further), ("classes explained", "time / of one class"), marks=marks, level=1.0)
        yield ReportFigure(f"{name}-targets", f"Time by number of classes explained, batch {further[0].batch}", drawn)
    compared = [cell for cell in measured if cell.table == "peers"]
    for model in dict.fromkeys(cell.model for cell in compared):
        ratios = {cell.what: cell.ratio for cell in compared if cell.model == model and cell.ratio is not None}
        title = f"Time of predictions and maps over predictions alone, {model}, batch {compared[0].batch}"
        yield ReportFigure(f"{name}-peers-{model}", title, plot_bars(ratios, "explained / plain", 1.0))


def _by_model(cells: Sequence[EngineCell]) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for cell in cells:
        assert cell.ratio is not None
        series.setdefault(cell.model, []).append((cell.batch, cell.ratio.median))
    return series


def _by_targets(cells: Sequence[EngineCell]) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for cell in cells:
        assert cell.ratio is not None
        series.setdefault(cell.model, [(1, 1.0)]).append((_classes(cell), cell.ratio.median))
    return series


def _classes(cell: EngineCell) -> int:
    return int(cell.what.split()[0])
