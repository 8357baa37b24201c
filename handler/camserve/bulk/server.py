"""Asking a server, several pictures at once."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import requests

from camserve.bulk.reading import Loaded
from camserve.bulk.rows import Row, RunStopped, read_answer, refused
from camserve.errors import BadOption, TooManyBytes, UnknownClass, first_line

TIMEOUT = 60  # seconds
RETRIES = 5  # of a busy server
FIRST_PAUSE = 0.5  # seconds, doubled each time
BUSY, TOO_LARGE = 503, 413
OF_ALL = (BadOption.code, UnknownClass.code)  # refusals of the options, which are the same for every picture


class ServerAsker:
    """Asks a model's address with the same options about every picture."""

    def __init__(
        self,
        url: str,
        token: str | None,
        options: Mapping[str, object],
        at_once: int,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Stand ready; ``at_once`` pictures are on their way together, ``pause`` waits for a busy server."""
        self._url, self._options, self._at_once, self._pause = url, dict(options), at_once, pause
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._local = threading.local()
        self._stopped = threading.Event()

    def __call__(self, pictures: Iterable[Loaded]) -> Iterator[Row]:
        """Yield the row of every picture, in order. RunStopped: the server refuses all, or does not answer."""
        waiting: deque[Future[Row]] = deque()
        self._stopped.clear()
        threads = ThreadPoolExecutor(self._at_once, "ask")
        try:
            for picture in pictures:
                waiting.append(threads.submit(self._ask, picture))
                if len(waiting) >= 2 * self._at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            self._stopped.set()
            threads.shutdown(cancel_futures=True)

    def _ask(self, picture: Loaded) -> Row:
        if picture.code:
            return refused(picture)
        for attempt in range(RETRIES + 1):
            response = self._post(picture)
            if response.status_code != BUSY:
                return self._read(picture, response)
            if attempt < RETRIES and not self._stopped.is_set():
                self._pause(FIRST_PAUSE * 2**attempt)
        raise RunStopped(f"{self._url} is busy (503) and stays so: ask for fewer at once (--workers), or later")

    def _post(self, picture: Loaded) -> requests.Response:
        session = self._session()
        try:
            return session.post(
                self._url, files={"data": picture.content}, data=self._options, headers=self._headers, timeout=TIMEOUT
            )
        except requests.RequestException as error:
            raise RunStopped(f"{self._url} does not answer: {first_line(error)}") from None

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session

    def _read(self, picture: Loaded, response: requests.Response) -> Row:
        answer = _parse(response)
        refusal = answer.get("error")
        if isinstance(refusal, Mapping) and {"code", "message"} <= refusal.keys():
            if refusal["code"] in OF_ALL:
                raise RunStopped(f"{picture.photo.path}: {refusal['message']}")
            return read_answer(picture, answer)
        if response.ok and "predictions" in answer:
            return read_answer(picture, answer)
        if response.status_code == TOO_LARGE:
            return refused(picture, TooManyBytes.code, "the server takes no picture of so many bytes")
        said = answer.get("message") or first_line(ValueError(response.text))
        raise RunStopped(f"{self._url} answers {response.status_code}: {said}")


def _parse(response: requests.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
