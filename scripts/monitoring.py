"""Write the rules and the dashboard that follow from the table of signals."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from camserve.drift.dashboard import make_dashboard, make_signal_rules

FOLDER = Path("config/monitoring")
NOTE = "# Written by scripts/monitoring from handler/camserve/monitor/signals.py.\n"


def files() -> dict[Path, str]:
    rules = yaml.safe_dump(make_signal_rules(), sort_keys=False, width=140)
    return {
        FOLDER / "signals.yml": NOTE + rules,
        FOLDER / "grafana" / "dashboards" / "camserve.json": json.dumps(make_dashboard(), indent=1) + "\n",
    }


def main() -> int:
    for path, content in files().items():
        path.write_text(content, encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
