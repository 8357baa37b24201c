"""Whether a server's metrics file declares what camserve counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from camserve.errors import ConfigError
from camserve.operate.doctor.files import read_properties
from camserve.operate.doctor.findings import ADVICE, Finding
from camserve.operate.metrics import find_metrics, find_undeclared, read_metrics

LINE = "metrics_config=/full/path/of/metrics.yaml"
NO_DETECTION = "; model_metrics_auto_detect adds none, for a worker sends only what the file declares"


def check_declared(config: Path) -> Iterator[Finding]:
    """Yield what keeps a server with this config.properties from counting camserve's metrics."""
    try:
        path = find_metrics(config)
        undeclared = find_undeclared({} if path is None else read_metrics(path))
    except ConfigError as error:
        yield Finding(ADVICE, str(config), f"metrics_config: {error}", LINE)
        return
    if not undeclared:
        return
    named = "TorchServe's own file" if path is None else str(path)
    detects = read_properties(config).get("model_metrics_auto_detect", "").lower() == "true"
    risk = f"metrics_config: {named} does not declare {len(undeclared)} of camserve's metrics, which are not counted"
    made = "camserve config" if path is None else f"camserve metrics {path} > metrics.yaml"
    yield Finding(ADVICE, str(config), risk + NO_DETECTION * detects, f"{LINE}  (made by: {made})")
