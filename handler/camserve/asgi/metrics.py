"""camserve's counters under the names and labels that they have behind TorchServe."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest

from camserve.monitor.series import COUNTERS, GAUGES
from camserve.serving.engines.metrics import LEVEL, MODEL_LABELS, label

HOSTNAME = "Hostname"  # TorchServe's frontend appends it


class Metrics:
    """The series of all models of one process."""

    def __init__(self) -> None:
        """Declare every metric."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        labels = (*MODEL_LABELS, HOSTNAME)
        self.counters = {
            name: Counter(name, name, [*own, *labels], registry=self._registry) for name, own in COUNTERS.items()
        }
        self.gauges = {
            name: Gauge(name, name, [*own, *labels], registry=self._registry) for name, own in GAUGES.items()
        }

    def page(self) -> bytes:
        """Return all series in Prometheus's text format."""
        return generate_latest(self._registry)


class ModelSink:
    """Adds to the series of one model."""

    def __init__(self, metrics: Metrics, name: str, version: str) -> None:
        """Count under a model's name and version."""
        self._metrics = metrics
        self.version = label(version)
        self._model = (self.version, label(name), LEVEL, socket.gethostname())
        self._set: set[tuple[str, tuple[str, ...]]] = set()  # gauges and their labels

    def count(self, metric: str, labels: Sequence[str], amount: int) -> None:
        """Add to a counter."""
        self._metrics.counters[metric].labels(*map(label, labels), *self._model).inc(amount)

    def gauge(self, metric: str, labels: Sequence[str], value: float) -> None:
        """Set a gauge."""
        every = (*map(label, labels), *self._model)
        self._set.add((metric, every))
        self._metrics.gauges[metric].labels(*every).set(value)

    def close(self) -> None:
        """Take its gauges off the page; counters stay, so that the last requests are in them."""
        for metric, every in self._set:
            self._metrics.gauges[metric].remove(*every)
        self._set.clear()
