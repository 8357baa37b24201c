"""How much is decoded at once is a question of bytes."""

import threading
import time

import pytest

import hostile
from camserve.errors import Overloaded
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
