"""TorchServe's service envelopes, stepped around.

An envelope opens bodies before a handler sees them: that of KServe only the first of a batch, so that
batches fail, and each without headers and statuses of their own. camserve opens the same bodies itself.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

ENVELOPES = ("body", "json", "kserve", "kservev2")  # all that TorchServe 0.12 brings
PACKAGE = "ts.torch_handler.request_envelope"


def step_around_envelopes() -> None:
    """Make TorchServe's own envelopes of this process hand rows and answers on as they are.

    Called before TorchServe makes its envelope, whose method it keeps. An envelope of another name stays.
    """
    try:
        base: Any = import_module(f"{PACKAGE}.base").BaseEnvelope
    except ImportError:
        return
    base.handle = _stepping_around(base.handle)


def _stepping_around(handle: Callable[..., Any]) -> Callable[..., Any]:
    def step_around(envelope: Any, data: Any, context: Any) -> Any:
        if type(envelope).__module__ in [f"{PACKAGE}.{name}" for name in ENVELOPES]:
            return envelope._handle_fn(data, context)
        return handle(envelope, data, context)

    return step_around
