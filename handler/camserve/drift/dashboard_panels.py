"""The table of the Grafana dashboard's panels and their queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from camserve.drift.audit_log import CLASSES, NO_CLASSES
from camserve.drift.statistics import PSI_ALARM, Z_ALARM
from camserve.monitor.series import QUANTILES

SELECTED = 'ModelName="$model", ModelVersion=~"$version"'
RATE = "$__rate_interval"

Json = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """One picture of the dashboard: its queries by legend."""

    title: str
    kind: str  # Grafana's panel type
    queries: Mapping[str, str]
    unit: str = "short"
    width: int = 8
    instant: bool = False
    settings: Json = field(default_factory=dict)
    defaults: Json = field(default_factory=dict)


def _of(metric: str, more: str = "") -> str:
    return f"{metric}{{{SELECTED}{', ' + more if more else ''}}}"


def _rate(metric: str, label: str) -> str:
    return f"sum by ({label}) (rate({_of(metric)}[{RATE}]))"


def _one(metric: str, feature: str) -> str:
    return _of(metric, f'feature="{feature}"')


def _slowest(quantile: str) -> str:
    return _of("cam_stage_milliseconds", f'quantile="{quantile}"')


def _mean(feature: str) -> dict[str, str]:
    own = {"{{ModelVersion}}": _one("cam:mean:1h", feature)}
    return {**own, "baseline {{ModelVersion}}": _one("cam:ref_mean", feature)}


STEPS = [{"color": "green", "value": None}, {"color": "orange", "value": 3.0}, {"color": "red", "value": Z_ALARM}]
COLORED = {
    "thresholds": {"mode": "absolute", "steps": STEPS},
    "custom": {"cellOptions": {"type": "color-background"}},
    "decimals": 1,
}
LOG_AXIS = {"custom": {"scaleDistribution": {"type": "log", "log": 10}}}
CENTROID = {
    "pluginVersion": "11.3.0",  # without one, Grafana takes these options for those of before 11.1 and fails
    "transformations": [{"id": "joinByField", "options": {"byField": "Time", "mode": "outer"}}],
    "options": {
        "mapping": "manual",
        "series": [
            {"x": {"matcher": {"id": "byName", "options": "x"}}, "y": {"matcher": {"id": "byName", "options": "y"}}}
        ],
    },
}
INPUTS = 'cam:signal{family="inputs"}'
RESTARTS = "sum by (WorkerName) (changes(WorkerLoadTime[15m]))"
QUEUE = (
    f'1000 * sum(rate(ts_queue_latency_microseconds{{model_name="$model"}}[{RATE}])) / 1e6 '
    f'/ sum(rate(ts_inference_requests_total{{model_name="$model"}}[{RATE}]))'
)
STAGES = (
    f"{_rate('cam_stage_microseconds_total', 'stage')} / 1000 "
    f"/ on () group_left () sum(rate({_of('cam_requests_total')}[{RATE}]))"
)
FORMATS = f"{_rate('cam_inputs_total', 'format')} / on () group_left () sum(rate({_of('cam_inputs_total')}[{RATE}]))"
TRAITS = (
    f"{_rate('cam_input_traits_total', 'trait')} / on () group_left () sum(rate({_of('cam_inputs_total')}[{RATE}]))"
)
SHIFTS = f"{_of('cam:shift:1h')} * on (feature) group_left () {INPUTS}"
LATENCY = {quantile: _of(f"cam:latency_{quantile}_milliseconds") for quantile in QUANTILES}
SLOWEST = {quantile: f"max by (stage) ({_slowest(quantile)})" for quantile in QUANTILES}

ROWS: Mapping[str, Sequence[Panel]] = {
    "Service": (
        Panel("Requests by outcome", "timeseries", {"{{outcome}}": _rate("cam_requests_total", "outcome")}, "reqps", 6),
        Panel("Time in the handler", "timeseries", LATENCY, "ms", 6),
        Panel("Time by stage, mean of a request", "timeseries", {"{{stage}}": STAGES}, "ms", 6),
        Panel("Time by stage, of a batch now", "table", SLOWEST, "ms", 6, instant=True),
        Panel("Time in the queue", "timeseries", {"mean": QUEUE}, "ms", 12),
        Panel("Worker restarts in 15 minutes", "timeseries", {"{{WorkerName}}": RESTARTS}, "short", 12),
    ),
    "Predictions": (
        Panel(
            "Estimated accuracy",
            "timeseries",
            {"{{ModelVersion}}": _of("cam:accuracy:1h"), "baseline {{ModelVersion}}": _of("cam:ref_accuracy")},
            "percentunit",
        ),
        Panel(
            "Confidence over time",
            "heatmap",
            {"{{bin}}": f"sum by (bin) (increase({_one('cam_bin_total', 'confidence')}[{RATE}]))"},
        ),
        Panel(
            "Classes against the baseline",
            "bargauge",
            {
                "{{bin}}": _one("cam:live_share:1h", CLASSES),
                "baseline {{bin}}": _one("cam:ref_share", CLASSES),
            },
            "percentunit",
            instant=True,
            defaults={"noValue": f"no requests, or {NO_CLASSES}"},
        ),
    ),
    "Explanations": (
        Panel("Evidence in the border, by version", "timeseries", _mean("border"), "percentunit", 6),
        Panel("Effective area, by version", "timeseries", _mean("area"), "percentunit", 6),
        Panel(
            "Where the evidence lies",
            "xychart",
            {
                "x": f"avg({_one('cam:mean:1h', 'centroid_x')})",
                "y": f"avg({_one('cam:mean:1h', 'centroid_y')})",
            },
            width=6,
            settings=CENTROID,
        ),
        Panel(
            "Blank maps",
            "timeseries",
            {"{{ModelVersion}}": _of("cam:blank:1h"), "baseline {{ModelVersion}}": _of("cam:ref_blank")},
            "percentunit",
            6,
        ),
    ),
    "Inputs": (
        Panel(
            "Inputs against the baseline, in its standard deviations",
            "timeseries",
            {"{{feature}} {{ModelVersion}}": SHIFTS},
            width=6,
        ),
        Panel("Pictures by format", "timeseries", {"{{format}}": FORMATS}, "percentunit", 6),
        Panel("Pictures that were converted, by trait", "timeseries", {"{{trait}}": TRAITS}, "percentunit", 6),
        Panel(
            "Pictures unlike the baseline's",
            "timeseries",
            {"{{ModelVersion}}": _of("cam:ood:1h"), "baseline {{ModelVersion}}": _of("cam:ref_ood")},
            "percentunit",
            6,
        ),
    ),
    "Drift": (
        Panel(
            "Drift now, z",
            "table",
            {window: f"max by (feature) ({_of(f'cam:drift_z:{window}')})" for window in ("1h", "24h")},
            instant=True,
            defaults=COLORED,
        ),
        Panel(
            f"Drift over time, z (alarm at {Z_ALARM} with PSI above {PSI_ALARM})",
            "timeseries",
            {"{{feature}} {{ModelVersion}}": _of("cam:drift_z:1h")},
        ),
        Panel(
            "Sequential evidence, and its alarm line",
            "timeseries",
            {"{{ModelVersion}}": _of("cam_e_detector"), "alarm": f"max({_of('cam_e_alarm')})"},
            defaults=LOG_AXIS,
        ),
        Panel("Firing alerts", "table", {"": 'ALERTS{alertstate="firing"}'}, width=24, instant=True),
    ),
}
