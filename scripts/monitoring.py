"""Write the rules and the dashboard that follow from the table of signals, and the page that alerts link to."""

from __future__ import annotations

import html
import json
import re
import sys
from pathlib import Path

import yaml

from camserve.drift.dashboard import make_dashboard, make_signal_rules

FOLDER = Path("config/monitoring")
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


def files() -> dict[Path, str]:
    rules = yaml.safe_dump(make_signal_rules(), sort_keys=False, width=140)
    return {
        FOLDER / "signals.yml": NOTE + rules,
        FOLDER / "grafana" / "dashboards" / "camserve.json": json.dumps(make_dashboard(), indent=1) + "\n",
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
