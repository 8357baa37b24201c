"""What TorchServe's frontend would believe of a worker's output, it never gets from a caller's text."""

import re
import subprocess
import sys

import pytest

import hostile
from camserve.serving.logs import one_line

# WorkerLifeCycle.java, by the strings in its class file; Java's Scanner breaks lines as str.splitlines does, or rarer.
BELIEVED = re.compile(r"(INFO > )?(\[METRICS\]|\[PID\]).*")

SPEAKER = """
import logging, sys, traceback, warnings
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
own = logging.getLogger("of.a.library")
own.addHandler(logging.StreamHandler(sys.stdout))
from camserve.serving.logs import guard_logs
guard_logs()
text = sys.argv[1]
logging.info(text)
logging.info("%s", text)
own.error(text)
print(text)
print(text, file=sys.stderr)
sys.stdout.writelines([text, "\\n"])
warnings.warn(text)
try:
    raise ValueError(text)
except ValueError:
    logging.exception("failed")
    traceback.print_exc()
print("still", "here")
"""


def test_no_line_of_a_text_is_believed():
    for text in hostile.INJECTIONS:
        assert not BELIEVED.match(one_line(text)), repr(text)
        assert len(one_line(text).splitlines()) == 1, repr(text)


@pytest.mark.parametrize(
    "text", [hostile.METRIC, f"x\n{hostile.PID}", f"x\u2028{hostile.METRIC}", f"x\x85{hostile.PID}"]
)
def test_no_way_of_writing_gets_past_the_guard(text):
    done = subprocess.run([sys.executable, "-c", SPEAKER, text], capture_output=True, text=True, check=True)
    for line in (done.stdout + done.stderr).splitlines():
        assert not BELIEVED.match(line)
    assert done.stdout.endswith("still here\n")
    assert "(METRICS)" in done.stdout + done.stderr or "(PID)" in done.stdout + done.stderr
