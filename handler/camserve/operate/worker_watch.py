"""Replaces workers that are gone while TorchServe still says READY.

A gRPC client that ends a ``StreamPredictions2`` call before its answer ends the thread that looks after the worker:
TorchServe 0.12.0 then never notices that the worker has ended, and every further request of the model waits for ever.
"""

from __future__ import annotations

import time

import httpx
import psutil

from camserve.client.http import shared_http
from camserve.operate.server import Server
from camserve.values import Progress

LOOK_SECONDS = 5.0
SECONDS = 30  # for one answer of the management side


class WorkerWatch:
    """Looks at the processes of one server's workers."""

    def __init__(self, server: Server, report: Progress) -> None:
        """Look for the first time a few seconds from now: workers that load have come and gone by then."""
        self._server = server
        self._report = report
        self._looked = time.monotonic()
        self._gone: dict[str, set[str]] = {}  # at the last look, by model

    def look(self) -> None:
        """Every few seconds, replace the workers of a model where a READY one was gone at two looks."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        for model in self._server.models:
            gone = self._find_gone(model)
            if gone & self._gone.get(model, set()):
                self._replace(model, gone)
                gone = set()
            self._gone[model] = gone
        self._looked = time.monotonic()

    def _find_gone(self, model: str) -> set[str]:
        ready = (worker["pid"] for worker in self._server.workers(model) if worker["status"] == "READY")
        return {str(pid) for pid in ready if not psutil.pid_exists(int(pid))}

    def _replace(self, model: str, gone: set[str]) -> None:
        """Scale the model down and up again: its other workers are started anew, too."""
        self._report(f"{model}: worker {', '.join(sorted(gone))} is gone, and TorchServe says READY: it is replaced")
        count = len(self._server.workers(model))
        side = self._server.management
        for workers, waits in ((0, "true"), (count, "false")):
            query = f"min_worker={workers}&max_worker={workers}&synchronous={waits}"
            try:
                shared_http().put(f"{side.url}/models/{model}?{query}", headers=side.headers, timeout=SECONDS)
            except httpx.HTTPError as error:
                self._report(f"{model}: the management side does not answer ({type(error).__name__})")
