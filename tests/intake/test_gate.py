"""How much is decoded at once is a question of bytes."""

import threading
import time

import pytest

import hostile
from camserve.errors import Overloaded
from camserve.intake.containers import has_many_scans
from camserve.intake.decode import LIGHT, decoding, memory
from camserve.intake.gate import MemoryGate
from camserve.intake.opened import USUAL, open_picture
from camserve.settings import Limits

LIMITS = Limits()


def enters(gate, weight):
    """Whether a thread is let in while the caller holds what it holds; it leaves again."""
    entered = threading.Event()

    def enter():
        with gate.hold(weight):
            entered.set()

    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    return entered.wait(0.2)


def test_as_much_is_let_in_as_fits():
    gate = MemoryGate(100)
    with gate.hold(60):
        assert enters(gate, 40)
        assert not enters(gate, 41)
    assert enters(gate, 100)


def test_what_is_larger_than_the_gate_goes_alone():
    gate = MemoryGate(100)
    with gate.hold(1):
        assert not enters(gate, 500)
    with gate.hold(500):
        assert not enters(gate, 1)


def test_waiting_ends():
    gate = MemoryGate(100)
    with gate.hold(100), pytest.raises(Overloaded, match="try again"), gate.hold(1, time.monotonic() + 0.05):
        pass
    assert enters(gate, 100)


def test_a_failure_inside_gives_its_bytes_back():
    gate = MemoryGate(100)
    with pytest.raises(ZeroDivisionError), gate.hold(100):
        raise ZeroDivisionError
    assert enters(gate, 100)


def weigh(data, enough=None):
    return open_picture(data, LIMITS, enough or (lambda width, height: (width, height))).weight


def test_a_picture_weighs_what_its_decoder_holds(encoded):
    """Not what it shows: a progressive JPEG that is decoded at an eighth still holds every coefficient."""
    small = lambda _width, _height: (50, 50)  # noqa: E731
    plain = encoded(400, 400, kind="JPEG", color=(90, 120, 60))
    assert weigh(plain) == 400 * 400 * 8
    assert weigh(plain, small) == 50 * 50 * 8
    assert weigh(hostile.heavy_scans(400, 400), small) == 50 * 50 * 8 + 400 * 400 * 3 * 2
    assert weigh(encoded(400, 400, kind="PNG", mode="L", color=1)) == 400 * 400 * 5
    assert weigh(encoded(400, 400, kind="WEBP", color=(1, 2, 3))) == 400 * 400 * 20


def test_a_large_picture_waits_only_so_long_and_a_small_one_is_not_refused(encoded):
    large = open_picture(encoded(3_000, 2_000, kind="PNG", color=(1, 2, 3)), LIMITS)
    small = open_picture(encoded(30, 20, kind="PNG", color=(1, 2, 3)), LIMITS)
    assert large.weight > LIGHT > small.weight
    with memory.hold(memory.size - small.weight):
        with pytest.raises(Overloaded), decoding(large, USUAL, time.monotonic() + 0.05):
            pass
        with decoding(small, USUAL, time.monotonic() - 1) as picture:
            assert picture.width == 30


@pytest.mark.parametrize(
    ("frame", "channels", "in_first_scan", "holds"),
    [
        (0xC0, 3, 3, False),
        (0xC1, 1, 1, False),
        (0xC0, 3, 1, True),
        (0xC2, 3, 3, True),
        (0xC2, 1, 1, True),
        (0xCA, 1, 1, True),
    ],
)
def test_the_first_scan_says_whether_a_jpegs_coefficients_are_held(frame, channels, in_first_scan, holds):
    """As libjpeg decides it, which has not seen the others yet; a file may end after one."""
    size = bytes([8, 0, 16, 0, 16, channels, *bytes(3 * channels)])
    scan = bytes([in_first_scan, *bytes(2 * in_first_scan + 3)])
    segments = ((frame, size), (0xDA, scan))
    parts = [bytes([0xFF, marker]) + (len(part) + 2).to_bytes(2, "big") + part for marker, part in segments]
    data = b"\xff\xd8" + b"".join(parts)
    assert has_many_scans("JPEG", data) == holds
    assert not has_many_scans("PNG", data)
    for end in range(len(data)):  # a file may end anywhere
        assert has_many_scans("JPEG", data[:end]) in (False, holds)
