"""TorchServe's metrics, as a sink for camserve's counters.

A metric is a line on a worker's standard output. TorchServe drops those that its metrics.yaml does
not declare, splits label values at commas and colons, and refuses labels that come in another order.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from camserve.errors import RequestError
from camserve.monitor.recorder import Finished
from camserve.monitor.series import COUNTERS, GAUGES

logger = logging.getLogger(__name__)

MODEL_LABELS = ("ModelVersion", "ModelName", "Level")
LEVEL = "Model"
HANDLER_TIME = "HandlerTime"  # TorchServe's own name
HANDLER_TIME_SECONDS = 1.0  # between two values: a gauge keeps its last, and each costs two lines of a log
DECIMALS = 4  # below this, Python writes exponents, which TorchServe's parser may not take


class TorchServeSink:
    """Adds to the counters and gauges that TorchServe's metrics.yaml declares."""

    def __init__(self, metrics: Any, name: str, version: str) -> None:
        """Look the metrics up in ``context.metrics``; warn, once, of those that the server does not know."""
        declared = _declared(metrics)
        self._metrics = {**_known(declared.get("counter", {}), COUNTERS), **_known(declared.get("gauge", {}), GAUGES)}
        self._model = (label(version), label(name), LEVEL)
        if missing := sorted({*COUNTERS, *GAUGES} - set(self._metrics)):
            logger.warning(
                "camserve: this server's metrics.yaml does not declare %s: they are not counted; "
                "set metrics_config to camserve's config/metrics.yaml, or to what 'camserve metrics YOURS.yaml' prints",
                ", ".join(missing),
            )

    def count(self, metric: str, labels: Sequence[str], amount: int) -> None:
        """Add to a counter."""
        self._update(metric, labels, amount)

    def gauge(self, metric: str, labels: Sequence[str], value: float) -> None:
        """Set a gauge."""
        self._update(metric, labels, round(value, DECIMALS))

    def _update(self, metric: str, labels: Sequence[str], value: float) -> None:
        if metric in self._metrics:
            self._metrics[metric].add_or_update(value, [*(label(value) for value in labels), *self._model])


class HandlerTime:
    """A recorder that sets the gauge which TorchServe's own handlers set: the time of a batch in the handler."""

    def __init__(self, metrics: Any, name: str) -> None:
        """Look the gauge up in ``context.metrics``; a server may leave it out."""
        gauge = _declared(metrics).get("gauge", {}).get(HANDLER_TIME)
        self._gauge = gauge if gauge is not None and tuple(gauge.dimension_names) == MODEL_LABELS[1:] else None
        self._labels = (label(name), LEVEL)
        self._last = -math.inf

    def record(self, finished: Finished) -> None:
        """Set the gauge, unless that was done within the last second."""
        now = time.monotonic()
        if self._gauge is not None and now - self._last >= HANDLER_TIME_SECONDS:
            self._last = now
            self._gauge.add_or_update(round(finished.milliseconds, DECIMALS), list(self._labels))

    def refused(self, error: RequestError) -> None:
        """Nothing: the time is a batch's."""

    def failed(self) -> None:
        """Nothing: the counters count it."""


def _declared(metrics: Any) -> dict[str, Mapping[str, Any]]:
    """Return the declared metrics by kind and name."""
    return {kind.value: table for kind, table in metrics.cache.items()}


def _known(declared: Mapping[str, Any], wanted: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    return {
        name: declared[name]
        for name, labels in wanted.items()
        if name in declared and tuple(declared[name].dimension_names) == (*labels, *MODEL_LABELS)
    }


def label(text: str) -> str:
    """Return a label value that survives TorchServe's parser."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text) or "_"
