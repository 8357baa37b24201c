"""Write what follows from the table of signals: rules, dashboard, both as Kubernetes objects, and the runbook."""

from __future__ import annotations

import html
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import yaml

from camserve.drift.dashboard import make_dashboard, make_signal_rules

FOLDER = Path("config/monitoring")
OBJECTS = Path("config/kubernetes/monitoring")
NOTE = "# Written by scripts/monitoring from handler/camserve/monitor/signals.py.\n"
PAGE = Path("docs/monitoring.md")
RUNBOOK = """<!doctype html>
<!-- Written by scripts/monitoring from docs/monitoring.md; Prometheus serves it, and alerts link to it. -->
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>camserve: runbook</title>
<style>:root {{ color-scheme: light dark }} body {{ max-width: 44rem; margin: 2rem auto; padding: 0 1rem; \
font: 1rem/1.5 sans-serif }} :target {{ border-bottom: 3px solid }}</style>
{}
</html>
"""
INLINE = (
    (r"\[([^]]+)\]\((https?://[^)]+)\)", r'<a href="\2">\1</a>'),
    (r"\[([^]]+)\]\((\w+\.md)[^)]*\)", r"\1 (docs/\2)"),  # the page is read where no clone is
    (r"`([^`]+)`", r"<code>\1</code>"),
    (r"\*\*([^*]+)\*\*", r"<b>\1</b>"),
    (r"\*([^*]+)\*", r"<i>\1</i>"),
)


def make_runbook(markdown: str) -> str:
    """Return the last section of docs/monitoring.md, the runbook, as an HTML page."""
    blocks = markdown[markdown.index("## Runbook") :].strip().split("\n\n")
    return RUNBOOK.format("\n".join(map(_format_block, blocks)))


def _format_block(block: str) -> str:
    if heading := re.fullmatch(r"(##+) (.+)", block):
        level, title = len(heading[1]) - 1, heading[2]
        return f'<h{level} id="{title.lower()}">{title}</h{level}>'
    text = html.escape(block, quote=False)
    for pattern, written in INLINE:
        text = re.sub(pattern, written, text)
    return f"<p>{text}</p>"


def make_rule_object(signals: dict[str, Any], rules: dict[str, Any]) -> str:
    """Return the PrometheusRule that holds the groups of two files of rules."""
    groups = [*signals["groups"], *rules["groups"]]
    header = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "camserve"}}
    written = yaml.safe_dump({**header, "spec": {"groups": groups}}, sort_keys=False, width=140)
    return f"# Written by scripts/monitoring from {FOLDER}/signals.yml and rules.yml.\n{written}"


def make_dashboard_object(dashboard: str) -> str:
    """Return the ConfigMap in which Grafana's sidecar finds the dashboard."""
    metadata = {"name": "camserve-dashboard", "labels": {"grafana_dashboard": "1"}}
    header = yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}, sort_keys=False)
    data = textwrap.indent(dashboard, "    ")
    return f"# Written by scripts/monitoring.\n{header}data:\n  camserve.json: |\n{data}"


def files() -> dict[Path, str]:
    rules = make_signal_rules()
    dashboard = json.dumps(make_dashboard(), indent=1) + "\n"
    alerts = yaml.safe_load((FOLDER / "rules.yml").read_text(encoding="utf-8"))
    return {
        FOLDER / "signals.yml": NOTE + yaml.safe_dump(rules, sort_keys=False, width=140),
        FOLDER / "grafana" / "dashboards" / "camserve.json": dashboard,
        OBJECTS / "rules.yaml": make_rule_object(rules, alerts),
        OBJECTS / "dashboard.yaml": make_dashboard_object(dashboard),
        FOLDER / "consoles" / "runbook.html": make_runbook(PAGE.read_text(encoding="utf-8")),
    }


def main() -> int:
    for path, content in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
