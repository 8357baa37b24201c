"""What a person sees at a terminal: colours, Ctrl-C, and connections that fail."""

import os
import pty
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module

import pytest

from camserve.cli import main
from camserve.cli.command import COMMANDS
from camserve.operate.shipped import SHIPPED_CONFIG

COMMAND = [sys.executable, "-c", "import sys; from camserve.cli import main; sys.exit(main())"]
PLAIN = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}


def at_a_terminal(arguments, **environment):
    """Return what a command writes to a terminal."""
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [*COMMAND, *arguments], stdout=theirs, stderr=theirs, env={**PLAIN, **environment}, check=False
    )
    os.close(theirs)
    with open(ours, "rb") as terminal:
        written = b""
        while True:
            try:
                block = terminal.read1(4096)
            except OSError:  # Linux's end of a terminal
                return done.returncode, written.decode()
            written += block


@pytest.fixture
def unsafe(tmp_path):
    config = tmp_path / "config.properties"
    config.write_text(SHIPPED_CONFIG.read_text() + "\nenable_model_api=true\n")
    return ["doctor", "--config", str(config)]


def test_colours_are_for_terminals_that_show_them(unsafe, capsys):
    red = "\x1b[31m"
    assert f"{red}unsafe\x1b[0m  " in at_a_terminal(unsafe, TERM="xterm")[1]
    assert f"{red}camserve: name what to check" in at_a_terminal(["doctor"], TERM="xterm")[1]
    for environment in ({"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}):
        status, written = at_a_terminal(unsafe, **environment)
        assert status == 1
        assert written.startswith("unsafe  ")
        assert "\x1b[31m" not in written
    assert main(unsafe) == 1
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_ends_every_command_with_one_line_and_its_status(name, monkeypatch, capsys):
    def stop(args):
        raise KeyboardInterrupt

    module = import_module(f"camserve.cli.{name}")
    monkeypatch.setattr(module, "add_options", lambda parser: None)
    monkeypatch.setattr(module, "run", stop)
    assert main([name]) == 130
    assert capsys.readouterr() == ("", "camserve: stopped by Ctrl-C\n")


class Baseline(BaseHTTPRequestHandler):
    """A metrics port of a version that has a baseline."""

    def do_GET(self):
        labels = ',ModelName="m",ModelVersion="1"'
        lines = [f'cam_ref_count{{feature="area",bin="b{bin_}"{labels}}} 5\n' for bin_ in range(2)]
        body = "".join(lines).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.server.asked.set()

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def metrics():
    with ThreadingHTTPServer(("127.0.0.1", 0), Baseline) as server:
        server.asked = threading.Event()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_ctrl_c_at_work_shows_no_traceback(metrics, tmp_path):
    url = f"http://127.0.0.1:{metrics.server_port}/metrics"
    words = [*COMMAND, "watch", "--metrics-url", url, "--state", str(tmp_path / "state.json")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert metrics.asked.wait(60)
        process.send_signal(signal.SIGINT)
        shown = process.communicate(timeout=60)[1]
    assert (process.returncode, shown) == (130, "camserve: stopped by Ctrl-C\n")


REFUSED = "the connection is refused: start the server, or name the port that it listens on"
WHOLE = "write the whole address, such as http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("command", "reasons"),
    [
        (["doctor", "--url"], (REFUSED, WHOLE)),
        (["doctor", "--front"], (REFUSED, "no machine is known by this name")),
        (["watch", "--once", "--metrics-url"], (REFUSED, WHOLE)),
        (["calibrate", "--metrics-url"], (REFUSED, WHOLE)),
    ],
)
def test_a_connection_that_fails_is_one_line_with_the_next_step(command, reasons, capsys):
    for address, reason in zip(("http://127.0.0.1:9", "nonsense"), reasons):
        assert main([*command, address]) == 1
        shown = capsys.readouterr().err
        assert shown.startswith(f"camserve: nothing answers at {address}")
        assert shown.endswith(f": {reason}\n")
        assert len(shown.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [["show", "run", "--limit", "-1"], ["explain", "a", "--url", "u", "--workers", "two"]]
)
def test_counts_are_whole_numbers_from_one(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert f"'{arguments[-1]}' is not a whole number from 1" in capsys.readouterr().err
