"""One request after the other until there is an answer, without any input or output of its own."""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Union
from urllib.parse import quote

import httpx

from camserve.client.options import write_options
from camserve.client.replies import parse_block, refusal_of
from camserve.errors import ConfigError, ServerUnreachable, UnexpectedAnswer, first_line
from camserve.strict import require

INVALID_KEY = "InvalidKeyException"  # TorchServe's type of a refusal for want of a token, status 400
FACTS = 'id="facts">'  # before the model description in the page for browsers


@dataclass(frozen=True)
class Retry:
    """How often, and after how long, a request is sent again: upon 503 and where nothing takes the connection."""

    attempts: int = 6  # the first one included
    connects: int = 6  # as many of them at most where nothing takes the connection
    first: float = 0.5  # seconds, the most that is waited before the second; it doubles from then on
    longest: float = 30.0  # seconds; a server that asks for more is not asked again

    def __post_init__(self) -> None:
        require(self.attempts > 0, f"attempts must be 1 or more, not {self.attempts}")

    def wait(self, attempt: int, least: float = 0.0) -> float | None:
        """Return for how many seconds to wait after ``attempt``, from 1; None: give up.

        ``least`` is the server's Retry-After. The wait is drawn at random, so that clients do not return together.
        """
        if attempt >= self.attempts or least > self.longest:
            return None
        return min(self.longest, least + random.uniform(0, min(self.longest, self.first * 2 ** (attempt - 1))))


@dataclass(frozen=True)
class Question:
    """What is asked of a model's address, but for the token."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)  # arguments of httpx
    photo: bytes = b""

    def arguments(self, token: str | None) -> dict[str, Any]:
        """Return the arguments of httpx's ``request``. ConfigError: no header can hold the token."""
        if token and not (token.isascii() and token.isprintable()):
            raise ConfigError("the token has a line end, or letters that no token has: strip() what a file holds")
        headers = {**self.headers, **({"Authorization": f"Bearer {token}"} if token else {})}
        return {"method": self.method, "url": self.url, "headers": headers, **self.body}


@dataclass(frozen=True)
class NeedToken:
    """Step: give the token; ``refused`` is the one that the server did not take."""

    refused: str | None = None


@dataclass(frozen=True)
class Send:
    """Step: send, and give back the response, or the error of a connection that was not made."""

    token: str | None


@dataclass(frozen=True)
class Wait:
    """Step: do nothing for so many seconds."""

    seconds: float


Step = Union[NeedToken, Send, Wait]
Exchange = Generator[Step, Any, httpx.Response]


def exchange(retry: Retry, address: str) -> Exchange:
    """Ask ``address`` until there is a response that stands; each step is what the caller is to do and to give back.

    ServerUnreachable: no connection was made.
    """
    token = yield NeedToken()
    is_renewed = False
    for attempt in range(1, retry.attempts + 1):
        reply = yield Send(token)
        if not is_renewed and isinstance(reply, httpx.Response) and is_token_refusal(reply):
            is_renewed, newer = True, (yield NeedToken(token))
            if newer != token:
                token = newer
                reply = yield Send(token)
        if isinstance(reply, httpx.Response) and reply.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
            return reply
        if not isinstance(reply, httpx.Response) and attempt >= retry.connects:
            break
        least = retry_after(reply) if isinstance(reply, httpx.Response) else 0.0
        seconds = retry.wait(attempt, least)
        if seconds is None:
            break
        yield Wait(seconds)
    if isinstance(reply, httpx.Response):
        return reply
    raise ServerUnreachable(f"nothing takes a connection at {address} ({first_line(reply)}): is the server running?")


def is_token_refusal(response: httpx.Response) -> bool:
    """Say whether a server wants another token."""
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        return True
    return response.status_code == HTTPStatus.BAD_REQUEST and _block_of(response).get("type") == INVALID_KEY


def retry_after(response: httpx.Response) -> float:
    """Return after how many seconds a server wants to be asked again, 0 where it does not say."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(timezone.utc)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def ask_about(address: str, photo: bytes, options: Mapping[str, object]) -> Question:
    """Return the question about a photo. BadOption: as for ``write_options``."""
    body = {"files": {"data": photo}, "data": write_options(options)}
    return Question("POST", address, {"Accept": "application/json"}, body, photo)


def ask_description(address: str) -> Question:
    """Return the question for the model description, which the page for browsers holds."""
    return Question("GET", address, {"Accept": "text/html"})


def address_of(url: str, model: str, version: str | None) -> str:
    """Return the address at which a model predicts and explains."""
    parts = [url.rstrip("/"), "predictions", quote(model, safe=""), *([quote(version, safe="")] if version else [])]
    return "/".join(parts)


def read_description(response: httpx.Response) -> dict[str, Any]:
    """Return the model description in the page for browsers.

    RequestError: a refusal. UnexpectedAnswer: there is no page.
    """
    if response.status_code != HTTPStatus.OK:
        raise refusal_of(response.status_code, _block_of(response))
    facts = parse_block(response.text.partition(FACTS)[2].partition("</script>")[0].encode())
    if "description" not in facts:
        raise UnexpectedAnswer("the server gives no page for the model: is its token right, and the model camserve's?")
    return dict(facts["description"])


def _block_of(response: httpx.Response) -> dict[str, Any]:
    return parse_block(response.content)
