"""Ray for as long as a block runs."""

import os
import signal

import pytest

from camserve.errors import ConfigError
from camserve.operate.ray_here import own_ray


class Refusing:
    """Stands where ray is imported, and is at no address."""

    def init(self, **options):
        raise ConnectionError("nothing there")

    def shutdown(self):
        pass


def test_the_environment_and_the_signals_are_afterwards_as_before(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", Refusing())
    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    with pytest.raises(ConfigError, match="does not answer: nothing there"), own_ray(1):
        pass
    assert dict(os.environ) == before
    assert signal.getsignal(signal.SIGTERM) is handler
