"""Waits on a server, passes signals on to it, and ends as it ended."""

from __future__ import annotations

import signal
import time
from types import FrameType

from camserve.operate.daemon import describe_end, exit_status
from camserve.operate.server import STOP_SECONDS, Server
from camserve.values import Progress

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PASSED_ON = (*ENDING, signal.SIGQUIT)  # Java writes its threads to server.log on SIGQUIT, and goes on
POLL_SECONDS = 0.2


class Supervisor:
    """The parent of one server."""

    def __init__(self, server: Server, report: Progress) -> None:
        """Start nothing yet."""
        self._server = server
        self._report = report
        self._ending: int | None = None
        self._deadline = 0.0

    @property
    def was_asked(self) -> bool:
        """Whether a signal has asked for the end."""
        return self._ending is not None

    def start(self) -> None:
        """Start the server; signals are passed on from here. ConfigError: it cannot start."""
        for number in PASSED_ON:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves SIGHUP, and a shell an "&" SIGINT
                signal.signal(number, self._receive)
        self._server.start(self._report)

    def wait(self) -> int:
        """Return the server's exit status, as a shell reports it, once it has ended."""
        while (code := self._server.poll()) is None:
            if self.was_asked and time.monotonic() > self._deadline:
                self._report(f"TorchServe has not ended within {STOP_SECONDS} s: it is killed")
                self._server.signal(signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        if not self.was_asked:
            self._report(f"camserve: TorchServe has ended ({describe_end(code)}); logs in {self._server.folder}")
        return exit_status(code)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._server.signal(number)
        if number in ENDING and self._ending is None:
            self._ending, self._deadline = number, time.monotonic() + STOP_SECONDS
