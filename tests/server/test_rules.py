"""The shipped rules and configuration, judged by Prometheus's own promtool."""

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(
        shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
    ),
]

FOLDER = Path(__file__).parents[2] / "config" / "monitoring"


def test_every_rule_passes_promtools_tests():
    done = subprocess.run(
        ["promtool", "test", "rules", "rules_test.yml"], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_configuration():
    done = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
