"""The port and the token of the application."""

import pytest

from camserve.asgi.listen import listen
from camserve.asgi.metrics import Metrics
from camserve.errors import ConfigError


@pytest.mark.parametrize("text", ["", "short", "a token with spaces in it", "\u00e4" * 20])
def test_a_file_that_holds_no_token_is_refused_before_anything_listens(tmp_path, text):
    (tmp_path / "token").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no token: delete it"):
        listen({}, Metrics(), 0, tmp_path, print)
