"""The server benchmark's tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from camserve.bench.plots import plot_bars, plot_curves, plot_stages
from camserve.bench.report import NOT_MEASURED, BenchReport, ReportFigure, Table, format_spread
from camserve.bench.served import ServerFindings
from camserve.bench.workloads import CONNECTIONS, EXPLAINED, PLAIN

RATIO = f"{EXPLAINED.name} / {PLAIN.name}"


def make_server_report(findings: ServerFindings, model: str, command: str, setting: Mapping[str, str]) -> BenchReport:
    """Return the tables and the pictures of a server benchmark."""
    tables = list(_tables(findings, model))
    return BenchReport("server", command, setting, tables, list(_figures(findings, model)), findings)


def _tables(found: ServerFindings, model: str) -> Iterator[Table]:
    yield Table(
        f"{model}, {CONNECTIONS} connections: median of rounds (quartiles)",
        ("requests", "answers a second", "p50 ms", "p99 ms", "bytes an answer", "failed"),
        [
            (
                name,
                format_spread(turn.throughput, 2),
                format_spread(turn.p50, 0),
                format_spread(turn.p99, 0),
                f"{turn.size:.0f}",
                str(turn.failed),
            )
            for name, turn in found.turns.items()
        ],
    )
    yield Table(
        "Ratios of throughput, each within one round",
        ("ratio", "median (quartiles)"),
        [
            *((name, format_spread(ratio)) for name, ratio in found.ratios.items()),
            ("photos of which all handlers predict the same class", f"{found.agreement:.3f}"),
        ],
    )
    yield Table(
        "One request at a time: median latency",
        ("requests", "ms"),
        [
            *((name, format_spread(latency, 1)) for name, latency in found.alone.items()),
            (RATIO, format_spread(found.alone_ratio)),
        ],
    )
    yield Table(
        "Latency at fixed rates of arrival",
        ("requests", "a second", "p50 ms", "p99 ms", "failed"),
        [
            (point.workload, f"{point.rate:.2f}", _milliseconds(point.p50), _milliseconds(point.p99), str(point.failed))
            for point in found.loaded
        ],
    )
    yield Table(
        "Servers",
        ("handler", "start to READY, s", "worker memory, MB", "archive, MB"),
        [
            (
                name,
                f"{server['ready_seconds']:.1f}",
                *(f"{server[key] / 1e6:.0f}" for key in ("resident_bytes", "archive_bytes")),
            )
            for name, server in found.servers.items()
        ],
    )
    yield Table(
        "Stages of one explained request on its own (details=timing)",
        ("stage", "ms"),
        [(name, f"{duration:.2f}") for name, duration in found.stages.items()],
    )
    call = found.stock_explanation
    row = (f"{call['seconds']:.1f}", f"{call['bytes']:.0f}", f"{call['status']:.0f}")
    yield Table("One call of image_classifier's own /explanations", ("s", "bytes", "status"), [row])


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value > 0 else NOT_MEASURED


def _figures(found: ServerFindings, model: str) -> Iterator[ReportFigure]:
    speeds = {name: turn.throughput for name, turn in found.turns.items()}
    title = f"Answers a second, {model}, {CONNECTIONS} connections"
    yield ReportFigure("server-throughput", title, plot_bars(speeds, "answers per second"))
    names = dict.fromkeys(point.workload for point in found.loaded)
    middle, tail = (
        {
            name: [
                (point.rate, getattr(point, which))
                for point in found.loaded
                if point.workload == name and point.p50 > 0
            ]
            for name in names
        }
        for which in ("p50", "p99")
    )
    title = "Latency against load: p50 solid, p99 dashed"
    yield ReportFigure(
        "server-latency",
        title,
        plot_curves(middle, ("requests per second", "latency (ms)"), tail, names=("p50", "p99"), log=True),
    )
    yield ReportFigure("server-stages", "One explained request, stage by stage", plot_stages(found.stages, "ms"))
