"""Waits on a server, passes signals on to it, and ends as it ended."""

from __future__ import annotations

import signal
import time
from types import FrameType

from camserve.errors import ConfigError
from camserve.operate.daemon import describe_end, exit_status
from camserve.operate.front import Front
from camserve.operate.server import STOP_SECONDS, Server
from camserve.operate.worker_watch import WorkerWatch
from camserve.values import Progress

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PASSED_ON = (*ENDING, signal.SIGQUIT)  # Java writes its threads to server.log on SIGQUIT, and goes on
POLL_SECONDS = 0.2


class Supervisor:
    """The parent of one server and, if there is one, of the front before it."""

    def __init__(self, server: Server, front: Front | None, report: Progress) -> None:
        """Start nothing yet."""
        self._server = server
        self._front = front
        self._report = report
        self._worker_watch = WorkerWatch(server, report)
        self._ending: int | None = None
        self._is_passed_on = False
        self._deadline = 0.0

    @property
    def was_asked(self) -> bool:
        """Whether a signal has asked for the end."""
        return self._ending is not None

    def start(self) -> None:
        """Start server and front; signals are passed on from here. ConfigError: one cannot start."""
        for number in PASSED_ON:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves SIGHUP, and a shell an "&" SIGINT
                signal.signal(number, self._receive)
        self._server.start(self._report)
        if self._front is not None:
            self._front.start()

    def wait(self) -> int:
        """Return the server's exit status, as a shell reports it, once it has ended. ConfigError: the front ended."""
        while (code := self._server.poll()) is None:
            if self.was_asked:
                self._end()
            else:
                self._worker_watch.look()
                if self._front is not None:
                    self._watch(self._front)
            time.sleep(POLL_SECONDS)
        if not self.was_asked:
            self._report(f"camserve: TorchServe has ended ({describe_end(code)}); logs in {self._server.folder}")
        return exit_status(code)

    def stop(self) -> None:
        """Stop whatever runs."""
        if self._front is not None:
            self._front.stop()
        self._server.stop()

    def _receive(self, number: int, _: FrameType | None) -> None:
        is_first = number in ENDING and not self.was_asked
        if is_first:
            self._ending, self._deadline = number, time.monotonic() + STOP_SECONDS
        if is_first and self._front is not None and self._front.is_running:
            self._front.drain()  # what is under way is answered before the server ends
        else:
            self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        self._server.signal(number)
        if number in ENDING:
            self._is_passed_on, self._deadline = True, time.monotonic() + STOP_SECONDS

    def _end(self) -> None:
        is_late = time.monotonic() > self._deadline
        if self._is_passed_on and is_late:
            self._report(f"TorchServe has not ended within {STOP_SECONDS} s: it is killed")
            self._server.signal(signal.SIGKILL)
        elif not self._is_passed_on and (is_late or not (self._front and self._front.is_running)):
            self._pass_on(self._ending or signal.SIGTERM)

    def _watch(self, front: Front) -> None:
        if not front.is_running:
            raise ConfigError(f"nginx has ended ({front.describe_end()}); logs in {front.folder}")
        front.look()
