"""A mark for tests of the front, and a front that runs while a block does."""

from contextlib import contextmanager

import pytest

from camserve.errors import ConfigError
from camserve.operate.front import find_nginx


def reason():
    try:
        find_nginx()
    except ConfigError as error:
        return str(error)
    return ""


needs_nginx = pytest.mark.skipif(bool(reason()), reason=reason())


@contextmanager
def started(front):
    """Start a front, and stop it after the block."""
    try:
        front.start()
        yield front
    finally:
        front.stop()
