"""camserve: predictions and Grad-CAM explanations in one forward pass, served by TorchServe."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camserve.client.asynchronous import AsyncClient as AsyncClient
    from camserve.client.blocking import Client as Client
    from camserve.explainer import Explainer as Explainer

__version__ = "0.1.0"

# What ``from camserve import …`` offers: loaded when it is named, since an import of camserve needs neither.
OFFERED = {
    "AsyncClient": "camserve.client.asynchronous",
    "Client": "camserve.client.blocking",
    "Explainer": "camserve.explainer",
}


def __getattr__(name: str) -> Any:
    if name in OFFERED:
        return getattr(import_module(OFFERED[name]), name)
    raise AttributeError(f"module 'camserve' has no attribute '{name}'")
