"""The HTTP client that all commands share: its TLS context takes 25 ms to make, a question less than one."""

from __future__ import annotations

from functools import cache

import httpx


@cache
def shared_http() -> httpx.Client:
    """Return a client that keeps no connection open and follows no redirect."""
    return httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))
