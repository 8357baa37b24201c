"""``camserve serve`` as a process of its own."""

import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import psutil

COMMAND = [sys.executable, "-c", "import sys; from camserve.cli import main; sys.exit(main())", "serve"]
SECONDS = 120


class Supervised:
    """The running command, what it has said, and the processes below it."""

    def __init__(self, process, port):
        self.port = port
        self.lines = []
        self._process = process
        self._fresh = queue.Queue()
        self._readers = [threading.Thread(target=self._read, args=(pipe,)) for pipe in (process.stdout, process.stderr)]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe):
        with pipe:
            for line in pipe:
                self.lines.append(line.rstrip())
                self._fresh.put(line)

    def until(self, text):
        """Return the line that holds a text, once it is said."""
        while True:
            line = self._fresh.get(timeout=SECONDS)
            if text in line:
                return line.strip()

    def signal(self, number):
        self._process.send_signal(number)

    def end(self):
        """Wait for the end; return the exit status."""
        status = self._process.wait(SECONDS)
        for reader in self._readers:
            reader.join(SECONDS)
        return status

    @property
    def status(self):
        return self._process.poll()

    @property
    def below(self):
        return psutil.Process(self._process.pid).children(recursive=True)

    def java(self):
        (java,) = [process for process in self.below if process.name() == "java"]
        return java

    def kill(self):
        if self.status is None:
            below = self.below
            self._process.kill()
            for process in below:
                process.kill()
        self.end()


@contextmanager
def supervised(port, folder, *arguments, ignore=(), **environment):
    """Run the command on ``port`` with its state in ``folder`` (None: its own choice); kill what is left of it."""

    def prepare():
        for number in ignore:
            signal.signal(number, signal.SIG_IGN)

    where = [] if folder is None else ["--folder", str(folder)]
    process = subprocess.Popen(
        [*COMMAND, "--port", str(port), *where, *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )
    running = Supervised(process, port)
    try:
        yield running
    finally:
        running.kill()
