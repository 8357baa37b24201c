"""The recorders of a served model."""

from __future__ import annotations

from collections.abc import Sequence

from camserve.monitor.audit import Audit
from camserve.monitor.baseline import Baseline
from camserve.monitor.counters import Counters
from camserve.monitor.recorder import Recorder
from camserve.monitor.series import Sink
from camserve.monitor.signals import NAMES
from camserve.settings import Monitoring


def live_recorders(
    spec: Monitoring,
    baseline: Baseline | None,
    sink: Sink | None,
    model: dict[str, str],
    selftest_ok: bool | None,
    names: Sequence[str] = NAMES,
) -> list[Recorder]:
    """Return what the settings ask for: counters of the signals ``names`` into the server's metrics, an audit log."""
    recorders: list[Recorder] = []
    counters = Counters(sink, baseline, names) if spec.enabled and sink is not None else None
    if counters is not None and sink is not None:
        if selftest_ok is not None:
            sink.gauge("cam_selftest_ok", (), float(selftest_ok))
        recorders.append(counters)
    if spec.audit is not None:
        recorders.append(Audit(spec.audit, model, counters.audit_dropped if counters else lambda: None))
    return recorders
