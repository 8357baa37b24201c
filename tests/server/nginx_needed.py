"""A mark for tests of the front."""

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
