"""Asking a server, several pictures at once."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from camserve.bulk.reading import Loaded
from camserve.bulk.rows import Row, RunStopped, make_row, refused
from camserve.client.answers import Answer
from camserve.client.blocking import Client
from camserve.client.protocol import Retry
from camserve.errors import (
    BadOption,
    CamserveError,
    ConfigError,
    RequestError,
    TooManyBytes,
    UnknownClass,
    quote,
)

OF_ALL = (BadOption, UnknownClass)  # refusals of the options, which are the same for every picture
BUSY, TOO_LARGE = 503, 413


class ServerAsker:
    """Asks a model's address with the same options about every picture."""

    def __init__(self, url: str, token: str | None, options: Mapping[str, Any], at_once: int) -> None:
        """Stand ready; ``at_once`` pictures are on their way together. ConfigError: no model's address."""
        self._client = _client_of(url, token)
        self._options, self._at_once = dict(options), at_once

    def __call__(self, pictures: Iterable[Loaded]) -> Iterator[Row]:
        """Yield the row of every picture, in order. RunStopped: the server refuses all, or does not answer."""
        taken: deque[Loaded] = deque()

        def sent() -> Iterator[bytes]:
            for picture in pictures:
                taken.append(picture)
                if not picture.code:
                    yield picture.content

        for answer in self._client.explain_many(sent(), concurrency=self._at_once, **self._options):
            while taken[0].code:
                yield refused(taken.popleft())
            yield self._row(taken.popleft(), answer)
        yield from map(refused, taken)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _row(self, picture: Loaded, answer: Answer | CamserveError) -> Row:
        if isinstance(answer, Answer):
            return make_row(picture, dict(answer.raw))
        if isinstance(answer, OF_ALL):
            raise RunStopped(f"{picture.photo.path}: {answer}")
        if not isinstance(answer, RequestError):
            raise RunStopped(str(answer))
        if answer.status == BUSY:
            raise RunStopped(
                f"{self._client.address} is busy (503) and stays so: ask for fewer at once (--workers), or later"
            )
        if type(answer) is not RequestError:
            return refused(picture, answer.code, str(answer))
        if answer.status == TOO_LARGE:  # TorchServe's own refusal
            return refused(picture, TooManyBytes.code, "the server takes no picture of so many bytes")
        raise RunStopped(f"{self._client.address} answers {answer.status}: {answer}")


def _client_of(url: str, token: str | None) -> Client:
    found = re.fullmatch(r"(https?://[^?#]+)/predictions/([^/?#]+)(?:/([^/?#]+))?", url)
    if found is None:
        raise ConfigError(f"--url {quote(url)} is no model's address: write http://HOST:PORT/predictions/MODEL")
    return Client(found[1], unquote(found[2]), token=token, version=found[3], retry=Retry(connects=1))
