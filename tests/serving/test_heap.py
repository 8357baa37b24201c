"""What becomes of freed memory; in a process of its own, since the setting is of the whole process."""

import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import resource
{before}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * SIZE
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

SIZE = 48 << 20
faults()
print(faults())
"""
KEEP = "from camserve.serving.heap import keep_heap; keep_heap()"


def count_faults(before):
    code = FAULTS.format(before=before)
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_a_large_block_that_was_freed_is_not_fetched_again():
    """glibc maps what is 32 MB or more, and the system clears it at every use."""
    assert count_faults(KEEP) < 100
    assert count_faults("") > 1000


GROWTH = """
from pathlib import Path
from camserve.serving.heap import keep_heap, limit_heap, trim_grown_heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 1_000_000

def grow(megabytes):
    blocks = [b"x" * (2 << 20) for _ in range(megabytes // 2)]
    before.append(bytes(100))  # above them, so that they are not at the end of the heap
    del blocks
    trim_grown_heap()
    print(resident() - start)

before = []
keep_heap()
{limit}
start = resident()
grow(60)
grow(400)
grow(60)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no Linux")
@pytest.mark.parametrize(("limit", "gives_back"), [("", False), ("limit_heap()", True), ("limit_heap(2 << 30)", False)])
def test_a_process_keeps_a_little_more_than_its_usual_memory_and_gives_back_what_one_batch_took(limit, gives_back):
    done = subprocess.run(
        [sys.executable, "-c", GROWTH.format(limit=limit)], capture_output=True, text=True, check=True
    )
    usual, large, later = map(int, done.stdout.split())
    assert usual >= 50  # which the next batch finds
    assert (large <= 20) == gives_back
    assert large >= 380 or gives_back
    assert later >= 50
