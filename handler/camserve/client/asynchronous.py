"""The client for asyncio: as ``Client``, with ``await``."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Union

import httpx

from camserve.client.answers import Answer
from camserve.client.blocking import TIMEOUT, check_many, unreachable
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
from camserve.errors import CamserveError

if TYPE_CHECKING:
    from typing_extensions import Unpack

Outcome = Union[Answer, CamserveError]


class AsyncClient:
    """Asks one model of one server. Errors: those of ``Client``."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        token: str | Callable[[], str | Awaitable[str]] | None = None,
        version: str | None = None,
        retry: Retry | None = None,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        """Get ready to ask; as for ``Client``, and the function for the token may be a coroutine."""
        self.address = address_of(url, model, version)
        self._token = token
        self._known: str | None = None
        self._renewing: asyncio.Lock | None = None
        self._retry = retry or Retry()
        self._http = http or httpx.AsyncClient(timeout=TIMEOUT)

    async def explain(self, photo: Photo, **options: Unpack[RequestOptions]) -> Answer:
        """Return the predictions for a photo, and its maps."""
        return await self._answer(photo, {"explain": True, **options})

    async def predict(self, photo: Photo, **options: Unpack[RequestOptions]) -> Answer:
        """Return the predictions alone."""
        return await self._answer(photo, {**options, "explain": False})

    async def explain_many(
        self,
        photos: Iterable[Photo] | AsyncIterable[Photo],
        *,
        concurrency: int = 4,
        **options: Unpack[RequestOptions],
    ) -> AsyncIterator[Outcome]:
        """Yield the answer to each photo, in order, or its error; as ``Client.explain_many``."""
        check_many(photos, concurrency)
        pending: deque[asyncio.Task[Outcome]] = deque()
        try:
            async for photo in _iterate(photos):
                pending.append(asyncio.ensure_future(self._attempt(photo, {"explain": True, **options})))
                if len(pending) == concurrency:
                    yield await pending.popleft()
            while pending:
                yield await pending.popleft()
        finally:
            for task in pending:
                task.cancel()

    async def describe(self) -> dict[str, Any]:
        """Return the model description: labels, layers, methods, input, defaults, limits."""
        return read_description(await self._ask(ask_description(self.address)))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.close()

    async def _attempt(self, photo: Photo, options: dict[str, object]) -> Outcome:
        try:
            return await self._answer(photo, options)
        except CamserveError as error:
            return error

    async def _answer(self, photo: Photo, options: dict[str, object]) -> Answer:
        # In a thread: reading a file and writing a PNG take their time.
        question = ask_about(self.address, await asyncio.to_thread(read_photo, photo), options)
        response = await self._ask(question)
        return read_reply(response.status_code, response.content, question.photo)

    async def _ask(self, question: Question) -> httpx.Response:
        steps = exchange(self._retry, self.address)
        step: Step = next(steps)
        try:
            while True:
                step = steps.send(await self._do(step, question))
        except StopIteration as end:
            response: httpx.Response = end.value
            return response

    async def _do(self, step: Step, question: Question) -> object:
        if isinstance(step, NeedToken):
            return await self._find_token(step.refused)
        if isinstance(step, Send):
            return await self._send(question.arguments(step.token))
        await asyncio.sleep(step.seconds)
        return None

    async def _send(self, arguments: dict[str, Any]) -> httpx.Response | httpx.ConnectError:
        try:
            return await self._http.request(**arguments)
        except httpx.ConnectError as error:
            return error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise unreachable(self.address, error) from None

    async def _find_token(self, refused: str | None) -> str | None:
        if not callable(self._token):
            return self._token
        self._renewing = self._renewing or asyncio.Lock()  # here there is a loop, which Python 3.9 asks for
        async with self._renewing:  # of several tasks that were refused one token, one renews it
            if self._known is None or self._known == refused:
                found = self._token()
                self._known = await found if inspect.isawaitable(found) else str(found)
            return self._known


async def _iterate(photos: Iterable[Photo] | AsyncIterable[Photo]) -> AsyncIterator[Photo]:
    if isinstance(photos, AsyncIterable):
        async for photo in photos:
            yield photo
        return
    for photo in photos:
        yield photo
