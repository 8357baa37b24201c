"""The Grafana dashboard and the rules that depend on the table of signals, written by scripts/monitoring."""

from __future__ import annotations

from collections.abc import Sequence

from camserve.drift.audit_log import CLASSES, CLASSES_CAUSE
from camserve.drift.dashboard_panels import ROWS, Json, Panel
from camserve.monitor.signals import SIGNALS

COLUMNS, TALL = 24, 8  # Grafana's grid


def make_dashboard() -> Json:
    """Return the dashboard as Grafana's JSON model, with the datasource, model and version as variables."""
    panels, top = [], 0
    for name, row in ROWS.items():
        panels.append({"type": "row", "title": name, "gridPos": _place(0, top, COLUMNS, 1), "panels": []})
        left, top = 0, top + 1
        for panel in row:
            if left + panel.width > COLUMNS:
                left, top = 0, top + TALL
            panels.append(_panel(panel, _place(left, top, panel.width, TALL)))
            left += panel.width
        top += TALL
    return {
        "uid": "camserve",
        "title": "camserve: what the model looks at",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": [{"id": at, **panel} for at, panel in enumerate(panels, 1)],
    }


def _place(left: int, top: int, width: int, height: int) -> Json:
    return {"x": left, "y": top, "w": width, "h": height}


def _panel(panel: Panel, place: Json) -> Json:
    source = {"type": "prometheus", "uid": "${datasource}"}
    targets = [
        {"refId": chr(ord("A") + at), "datasource": source, "expr": query, "legendFormat": legend}
        | ({"instant": True, "format": "table"} if panel.kind == "table" else {"instant": panel.instant})
        for at, (legend, query) in enumerate(panel.queries.items())
    ]
    defaults = {"unit": panel.unit, **panel.defaults}
    return {"type": panel.kind, "title": panel.title, "gridPos": place, "datasource": source, "targets": targets} | {
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {},
        **(_joined(targets) if panel.kind == "table" and len(targets) > 1 else {}),
        **panel.settings,
    }


def _joined(targets: Sequence[Json]) -> Json:
    """Make one table of several queries: a column for each, named by its legend rather than by Grafana's letter."""
    named = {f"Value #{target['refId']}": target["legendFormat"] for target in targets}
    organized = {"excludeByName": {"Time": True}, "renameByName": named}
    return {"transformations": [{"id": "merge", "options": {}}, {"id": "organize", "options": organized}]}


def _variables() -> list[Json]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    model = {"name": "model", "type": "query", "datasource": source, "refresh": 2}
    version = {
        "name": "version",
        "type": "query",
        "datasource": source,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
    }
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        {**model, "query": "label_values(cam_requests_total, ModelName)"},
        {**version, "query": 'label_values(cam_requests_total{ModelName="$model"}, ModelVersion)'},
    ]


def make_signal_rules() -> Json:
    """Return Prometheus rules with each feature's family, the likeliest cause of its drift, and the order of bins."""
    causes = {name: (signal.family, signal.cause) for name, signal in SIGNALS.items()}
    causes[CLASSES] = CLASSES_CAUSE
    rules = [
        {"record": "cam:signal", "expr": "vector(1)", "labels": {"feature": name, "family": family, "cause": cause}}
        for name, (family, cause) in causes.items()
    ]
    rules += [
        {"record": "cam:bin_number", "expr": f"vector({number})", "labels": {"bin": f"b{number}"}}
        for number in range(max(signal.bins for signal in SIGNALS.values()))
    ]
    return {"groups": [{"name": "camserve-signals", "rules": rules}]}
