"""The names of all series, fixed when the model is loaded so that their number is bounded, and where they go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from camserve.errors import RequestError
from camserve.input_spec import EXTRA_FORMATS
from camserve.values import TRAITS

MAX_SERIES = 260
OUTCOMES = ("ok", *(refusal.code for refusal in RequestError.__subclasses__()))
STATUSES = ("ok", "blank", "skipped", "failed")
FLAGS = ("atc", "ood", "low_confidence", "blank")
# What ``decode`` may say: never a caller's own text.
PICTURE_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", *(name.upper() for name in EXTRA_FORMATS))
STAGES = ("decode", "preprocess", "forward", "explain", "render")
RECENT = 512  # batches whose stages the quantiles are of
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
LATENCIES = {  # milliseconds -> label
    **{float(limit): str(limit) for limit in (10, 25, 50, 100, 250, 500, 1000)},
    math.inf: "Inf",
}
LIMITS = tuple(LATENCIES)

COUNTERS: Mapping[str, tuple[str, ...]] = {  # name -> its own labels; the sink adds those of the model
    "cam_bin_total": ("feature", "bin"),
    "cam_requests_total": ("outcome",),
    "cam_explanations_total": ("status",),
    "cam_flags_total": ("flag",),
    "cam_inputs_total": ("format",),
    "cam_input_traits_total": ("trait",),
    "cam_latency_milliseconds_total": ("le",),
    "cam_stage_microseconds_total": ("stage",),
    "cam_batches_total": (),
    "cam_monitor_failures_total": (),
    "cam_audit_dropped_total": (),
}
GAUGES: Mapping[str, tuple[str, ...]] = {
    "cam_ref_count": ("feature", "bin"),
    "cam_ref_mean": ("feature", "bin"),
    "cam_ref_value": ("value",),
    "cam_selftest_ok": (),
    "cam_stage_milliseconds": ("stage", "quantile"),
}

Key = tuple[str, tuple[str, ...]]  # metric, label values

FIXED: list[Key] = [
    *(("cam_requests_total", (code,)) for code in OUTCOMES),
    *(("cam_explanations_total", (status,)) for status in STATUSES),
    *(("cam_flags_total", (flag,)) for flag in FLAGS),
    *(("cam_inputs_total", (kind,)) for kind in PICTURE_FORMATS),
    *(("cam_input_traits_total", (trait,)) for trait in TRAITS),
    *(("cam_latency_milliseconds_total", (label,)) for label in LATENCIES.values()),
    *(("cam_stage_microseconds_total", (stage,)) for stage in STAGES),
    *((metric, ()) for metric, labels in COUNTERS.items() if not labels),
]


class Sink(Protocol):
    """Where numbers go: a server's own metrics."""

    def count(self, metric: str, labels: Sequence[str], amount: int) -> None:
        """Add to a counter."""

    def gauge(self, metric: str, labels: Sequence[str], value: float) -> None:
        """Set a gauge."""
