"""The shipped rules and configuration, judged by promtool and amtool, which come with Prometheus and Alertmanager."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.server
PROMTOOL = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
)
AMTOOL = pytest.mark.skipif(
    shutil.which("amtool") is None, reason="amtool is not installed: apt-get install prometheus-alertmanager"
)

FOLDER = Path(__file__).parents[2] / "config" / "monitoring"


def run(*command):
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@PROMTOOL
def test_every_rule_passes_promtools_tests():
    run("promtool", "test", "rules", "rules_test.yml")


@PROMTOOL
def test_promtool_accepts_the_configuration():
    run("promtool", "check", "config", "prometheus.yml")


@AMTOOL
def test_amtool_accepts_the_route_and_its_commented_receivers(tmp_path):
    shipped = (FOLDER / "alertmanager.yml").read_text()
    run("amtool", "check-config", "alertmanager.yml")
    uncommented = re.sub(r"^    # (?=email_configs:|slack_configs:|  )", "    ", shipped, flags=re.MULTILINE)
    assert {"email_configs", "slack_configs"} <= set(re.findall(r"^    (\w+):", uncommented, re.MULTILINE))
    (tmp_path / "alertmanager.yml").write_text(uncommented)
    run("amtool", "check-config", str(tmp_path / "alertmanager.yml"))


@AMTOOL
@pytest.mark.parametrize(("severity", "receiver"), [("critical", "team"), ("warning", "team"), ("info", "dashboard")])
def test_the_team_gets_all_alerts_but_those_for_information(severity, receiver):
    routed = run("amtool", "config", "routes", "test", "--config.file=alertmanager.yml", f"severity={severity}")
    assert routed.strip() == receiver
