"""What becomes of freed memory; in a process of its own, since the setting is of the whole process."""

import subprocess
import sys

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
