"""The evidence of ``camserve watch`` as a page that Prometheus reads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from camserve.drift.watcher import Evidence

LOOPBACK = "127.0.0.1"
METRICS = {
    "cam_e_detector": "evidence of drift in the last week, all features",
    "cam_e_alarm": "the evidence that raises an alarm",
    "cam_e_feature": "evidence of drift in the last week",
}


class EvidencePage:
    """The last evidence in Prometheus' text format."""

    def __init__(self, threshold: float) -> None:
        """Begin empty."""
        self._threshold = threshold
        self.text = ""

    def show(self, found: Sequence[Evidence]) -> None:
        """Replace what is shown."""
        samples: dict[str, list[str]] = {name: [] for name in METRICS}
        for evidence in found:
            model = f'ModelName="{evidence.version.model}",ModelVersion="{evidence.version.version}"'
            samples["cam_e_detector"].append(f"{{{model}}} {evidence.e}")
            samples["cam_e_alarm"].append(f"{{{model}}} {self._threshold}")
            samples["cam_e_feature"] += [
                f'{{{model},feature="{name}"}} {value}' for name, value in evidence.features.items()
            ]
        self.text = "".join(
            f"# HELP {name} {meaning}\n# TYPE {name} gauge\n" + "".join(f"{name}{sample}\n" for sample in samples[name])
            for name, meaning in METRICS.items()
        )


def serve_page(page: EvidencePage, port: int) -> ThreadingHTTPServer:
    """Return the server that answers every path with the page, on a loopback port and in a thread of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = page.text.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer((LOOPBACK, port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
