"""The client that waits for its answers."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable

import httpx

from camserve.client.answers import Answer
from camserve.client.options import RequestOptions
from camserve.client.photos import Photo, read_photo
from camserve.client.protocol import (
    NeedToken,
    Question,
    Retry,
    Send,
    Step,
    address_of,
    ask_about,
    ask_description,
    exchange,
    read_description,
)
from camserve.client.replies import read_reply
from camserve.errors import CamserveError, ConfigError, ServerUnreachable, first_line

if TYPE_CHECKING:
    from typing_extensions import Unpack

TIMEOUT = 60.0  # seconds


class Client:
    """Asks one model of one server.

    RequestError: a refusal, of the class that errors.py has for its code. ServerUnreachable: no answer came.
    UnexpectedAnswer: it is not camserve's. ConfigError: the photo cannot be read, or no header can hold the token.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        token: str | Callable[[], str] | None = None,
        version: str | None = None,
        retry: Retry | None = None,
        http: httpx.Client | None = None,
    ) -> None:
        """Get ready to ask ``url``, such as http://127.0.0.1:8080; nothing is sent yet.

        ``token`` may be a function, which is called again once the server refuses what it returned. ``http`` carries
        certificates, proxies or timeouts of one's own.
        """
        self.address = address_of(url, model, version)
        self._token = token
        self._known: str | None = None
        self._lock = threading.Lock()
        self._retry = retry or Retry()
        self._http = http or httpx.Client(timeout=TIMEOUT)

    def explain(self, photo: Photo, **options: Unpack[RequestOptions]) -> Answer:
        """Return the predictions for a photo, and its maps."""
        return self._answer(photo, {"explain": True, **options})

    def predict(self, photo: Photo, **options: Unpack[RequestOptions]) -> Answer:
        """Return the predictions alone."""
        return self._answer(photo, {**options, "explain": False})

    def explain_many(
        self, photos: Iterable[Photo], *, concurrency: int = 4, **options: Unpack[RequestOptions]
    ) -> Iterator[Answer | CamserveError]:
        """Yield the answer to each photo, in order, with so many requests under way.

        What ``explain`` would raise stands in the place of its answer. No more photos are taken than are under way.
        """
        check_many(photos, concurrency)
        with ThreadPoolExecutor(concurrency, "camserve") as threads:
            pending: deque[Future[Answer | CamserveError]] = deque()
            try:
                for photo in photos:
                    pending.append(threads.submit(self._attempt, photo, {"explain": True, **options}))
                    if len(pending) == concurrency:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def describe(self) -> dict[str, Any]:
        """Return the model description: labels, layers, methods, input, defaults, limits."""
        return read_description(self._ask(ask_description(self.address)))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def _attempt(self, photo: Photo, options: dict[str, object]) -> Answer | CamserveError:
        try:
            return self._answer(photo, options)
        except CamserveError as error:
            return error

    def _answer(self, photo: Photo, options: dict[str, object]) -> Answer:
        question = ask_about(self.address, read_photo(photo), options)
        response = self._ask(question)
        return read_reply(response.status_code, response.content, question.photo)

    def _ask(self, question: Question) -> httpx.Response:
        steps = exchange(self._retry, self.address)
        step: Step = next(steps)
        try:
            while True:
                step = steps.send(self._do(step, question))
        except StopIteration as end:
            response: httpx.Response = end.value
            return response

    def _do(self, step: Step, question: Question) -> object:
        if isinstance(step, NeedToken):
            return self._find_token(step.refused)
        if isinstance(step, Send):
            return self._send(question.arguments(step.token))
        time.sleep(step.seconds)
        return None

    def _send(self, arguments: dict[str, Any]) -> httpx.Response | httpx.ConnectError:
        try:
            return self._http.request(**arguments)
        except httpx.ConnectError as error:
            return error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise unreachable(self.address, error) from None

    def _find_token(self, refused: str | None) -> str | None:
        if not callable(self._token):
            return self._token
        with self._lock:  # of several threads that were refused one token, one renews it
            if self._known is None or self._known == refused:
                self._known = self._token()
            return self._known


def check_many(photos: object, concurrency: int) -> None:
    """Refuse what is no series of photos, and to have less than one request under way (ConfigError)."""
    if isinstance(photos, (str, bytes, bytearray, PathLike)):
        raise ConfigError(
            "explain_many takes photos, not one: sorted(Path(folder).glob('*.jpg')) lists those of a folder"
        )
    if concurrency < 1:
        raise ConfigError(f"concurrency must be 1 or more, not {concurrency}")


def unreachable(address: str, error: Exception) -> ServerUnreachable:
    """Return the error of a request whose answer did not come."""
    return ServerUnreachable(f"no answer from {address} ({type(error).__name__}: {first_line(error)})")
