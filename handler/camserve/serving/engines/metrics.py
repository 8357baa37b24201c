"""TorchServe's metrics, as a sink for camserve's counters.

A metric is a line on a worker's standard output. TorchServe drops those that its metrics.yaml does
not declare, splits label values at commas and colons, and refuses labels that come in another order.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from camserve.monitor.series import COUNTERS, GAUGES

logger = logging.getLogger(__name__)

MODEL_LABELS = ("ModelVersion", "ModelName", "Level")
LEVEL = "Model"
DECIMALS = 4  # below this, Python writes exponents, which TorchServe's parser may not take


class TorchServeSink:
    """Adds to the counters and gauges that TorchServe's metrics.yaml declares."""

    def __init__(self, metrics: Any, name: str, version: str) -> None:
        """Look the metrics up in ``context.metrics``; warn, once, of those that the server does not know."""
        declared = {kind.value: table for kind, table in metrics.cache.items()}
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


def _known(declared: Mapping[str, Any], wanted: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    return {
        name: declared[name]
        for name, labels in wanted.items()
        if name in declared and tuple(declared[name].dimension_names) == (*labels, *MODEL_LABELS)
    }


def label(text: str) -> str:
    """Return a label value that survives TorchServe's parser."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text) or "_"
