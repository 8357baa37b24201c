"""The server benchmark's tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from camserve.bench.plots import plot_bars, plot_curves, plot_stages
from camserve.bench.report import NOT_MEASURED, Figure, Report, Table, told
from camserve.bench.served import CONNECTIONS, EXPLAINED, PLAIN, Findings

RATIO = f"{EXPLAINED.name} / {PLAIN.name}"


def served_report(findings: Findings, model: str, command: str, setting: Mapping[str, str]) -> Report:
    """Tell what was measured."""
    tables = list(_tables(findings, model))
    return Report("server", command, setting, tables, list(_figures(findings, model)), findings)


def _tables(found: Findings, model: str) -> Iterator[Table]:
    yield Table(
        f"{model}, {CONNECTIONS} connections: median of rounds (quartiles)",
        ("requests", "answers a second", "p50 ms", "p99 ms", "bytes an answer", "failed"),
        [
            (name, told(each.throughput, 2), told(each.p50, 0), told(each.p99, 0), f"{each.size:.0f}", str(each.failed))
            for name, each in found.turns.items()
        ],
    )
    yield Table(
        "Ratios of throughput, each within one round",
        ("ratio", "median (quartiles)"),
        [
            *((name, told(each)) for name, each in found.ratios.items()),
            ("photos of which all handlers predict the same class", f"{found.agreement:.3f}"),
        ],
    )
    yield Table(
        "One request at a time: median latency",
        ("requests", "ms"),
        [*((name, told(each, 1)) for name, each in found.alone.items()), (RATIO, told(found.alone_ratio))],
    )
    yield Table(
        "Latency at fixed rates of arrival",
        ("requests", "a second", "p50 ms", "p99 ms", "failed"),
        [
            (each.workload, f"{each.rate:.2f}", _milliseconds(each.p50), _milliseconds(each.p99), str(each.failed))
            for each in found.loaded
        ],
    )
    yield Table(
        "Servers",
        ("handler", "start to READY, s", "worker memory, MB", "archive, MB"),
        [
            (
                name,
                f"{each['ready_seconds']:.1f}",
                *(f"{each[key] / 1e6:.0f}" for key in ("resident_bytes", "archive_bytes")),
            )
            for name, each in found.servers.items()
        ],
    )
    yield Table(
        "Stages of one explained request on its own (details=timing)",
        ("stage", "ms"),
        [(name, f"{each:.2f}") for name, each in found.stages.items()],
    )
    asked = found.stock_explanation
    row = (f"{asked['seconds']:.1f}", f"{asked['bytes']:.0f}", f"{asked['status']:.0f}")
    yield Table("One call of image_classifier's own /explanations", ("s", "bytes", "status"), [row])


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value > 0 else NOT_MEASURED


def _figures(found: Findings, model: str) -> Iterator[Figure]:
    speeds = {name: each.throughput for name, each in found.turns.items()}
    title = f"Answers a second, {model}, {CONNECTIONS} connections"
    yield Figure("server-throughput", title, plot_bars(speeds, "answers per second"))
    names = dict.fromkeys(each.workload for each in found.loaded)
    middle, tail = (
        {
            name: [(each.rate, getattr(each, which)) for each in found.loaded if each.workload == name and each.p50 > 0]
            for name in names
        }
        for which in ("p50", "p99")
    )
    title = "Latency against load: p50 solid, p99 dashed"
    yield Figure(
        "server-latency",
        title,
        plot_curves(middle, ("requests per second", "latency (ms)"), tail, names=("p50", "p99"), log=True),
    )
    yield Figure("server-stages", "One explained request, stage by stage", plot_stages(found.stages, "ms"))
