"""A real Prometheus and a real Alertmanager with the shipped files in a hurry, and a receiver of what they send."""

import json
import re
import shutil
import subprocess
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import yaml

FOLDER = Path(__file__).parents[2] / "config" / "monitoring"
LOOPBACK = "127.0.0.1"
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")  # Debian's name, its own


class Receiver(ThreadingHTTPServer):
    """What a team would put at the webhook's address: it keeps every message."""

    def __init__(self, port):
        super().__init__((LOOPBACK, port), _Keep)
        self.messages = []

    def firing(self):
        """Return the alerts received as firing, by name."""
        alerts = [alert for message in self.messages for alert in message["alerts"]]
        return {alert["labels"]["alertname"]: alert for alert in alerts if alert["status"] == "firing"}


class _Keep(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


@contextmanager
def receive(port):
    with Receiver(port) as receiver:
        Thread(target=receiver.serve_forever, daemon=True).start()
        yield receiver
        receiver.shutdown()


def hurry(text):
    """Make minutes of the hours in the rules, and seconds of the minutes that an alert waits."""
    text = re.sub(r"for: \d+m", "for: 2s", text)
    for long, short in (
        ("[1h]", "[1m]"),
        ("[24h]", "[2m]"),
        ("[24h] offset 15m", "[2m] offset 1m"),
        ("[15m]", "[1m]"),
        ("[2m]", "[40s]"),
    ):
        text = text.replace(long, short)
    return text


@contextmanager
def run_prometheus(folder, port, targets, alertmanager_port):
    """Run Prometheus with the shipped rules and flags, scraping ``targets`` (by job) every second; its URL."""
    for name in ("rules.yml", "signals.yml"):
        (folder / name).write_text(hurry((FOLDER / name).read_text()))
    shutil.copytree(FOLDER / "consoles", folder / "consoles")
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text().replace(":9093", f":{alertmanager_port}"))
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    flags = {"/etc/camserve": str(folder), ":9090": f":{port}", "=/prometheus": f"={folder / 'data'}"}
    with _run(shutil.which("prometheus"), "prometheus", folder, flags):
        yield f"http://{LOOPBACK}:{port}"


@contextmanager
def run_alertmanager(folder, port, receiver_port):
    """Run Alertmanager with the shipped route and flags: what goes to the team goes to ``receiver_port``."""
    text = (FOLDER / "alertmanager.yml").read_text()
    assert ":9106/" in text
    text = text.replace(":9106/", f":{receiver_port}/").replace("group_wait: 30s", "group_wait: 1s")
    (folder / "alertmanager.yml").write_text(text.replace("group_interval: 5m", "group_interval: 1s"))
    flags = {"/etc/camserve": str(folder), ":9093": f":{port}", "=/alertmanager": f"={folder / 'data'}"}
    with _run(ALERTMANAGER, "alertmanager", folder, flags):
        yield f"http://{LOOPBACK}:{port}"


@contextmanager
def _run(program, service, folder, changes):
    """Run a service of compose.yml with its own flags, whose parts are replaced by ``changes``."""
    flags = yaml.safe_load((FOLDER / "compose.yml").read_text())["services"][service]["command"]
    for shipped, changed in changes.items():
        assert any(shipped in flag for flag in flags), f"no flag of {service} names {shipped}"
        flags = [flag.replace(shipped, changed) for flag in flags]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, *flags, "--log.level=warn"], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)
