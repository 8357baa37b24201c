"""The routes of TorchServe's inference side and of the front, as one ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import signal
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from camserve.asgi.metrics import Metrics
from camserve.asgi.received import BodyRoom, fields_of, lower_headers
from camserve.asgi.refusals import Refused
from camserve.choices import JSON_TYPE
from camserve.serving.engines.answering import ReceivedRow, wants_page
from camserve.values import Response as ModelResponse
from camserve.viewer.page import HTML_TYPE, render_page

logger = logging.getLogger(__name__)

BAD_PATH = re.compile(r"[\x00-\x1f\x7f\\]|//|/\.\.?(/|$)")
MODEL = r"(?P<model>[A-Za-z0-9_][A-Za-z0-9_.-]*)"
ROUTES = (  # path -> model, version, what follows it, and whether an explanation is asked for by the route
    re.compile(rf"/(?P<verb>predictions|explanations)/{MODEL}(/(?P<version>[^/]+)(?P<rest>/.*)?)?"),
    re.compile(rf"/v1/models/{MODEL}:(?P<verb>predict|explain)"),
    re.compile(rf"/v2/models/{MODEL}/(?P<verb>infer|explain)"),
)
READY = re.compile(rf"/v2/models/{MODEL}/ready")
EXPLAINING = ("explanations", "explain")
BODY_SECONDS = 60
BODIES = 64  # of the largest size, that are received at the same time: as many as may wait
Change = Callable[[], Coroutine[None, None, None]]
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Worker(Protocol):
    """What answers the rows of one model."""

    @property
    def is_stuck(self) -> bool:
        """Whether no answer is to be expected."""

    def start(self) -> None:
        """Begin to answer, in the running event loop."""

    async def stop(self) -> None:
        """Answer no more."""

    async def answer(self, row: ReceivedRow) -> ModelResponse:
        """Return the answer to a row. Refused: there is none."""


@dataclass(frozen=True)
class Served:
    """One model and what answers for it."""

    version: str
    worker: Worker


class App:
    """Answers requests for some models; everything but health wants the token."""

    def __init__(
        self,
        models: Mapping[str, Served],
        token: str,
        most_bytes: int,
        metrics: Metrics,
        change: Change | None = None,
        has_hung_up: threading.Event | None = None,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve ``models`` by name, which ``change``, called at SIGHUP, may replace; a body may have ``most_bytes``.

        ``has_hung_up`` says whether a SIGHUP came before; ``begin`` is called when requests are answered.
        """
        self._models = models
        self._token = token
        self._most_bytes = most_bytes
        self._bodies = BodyRoom(BODIES * most_bytes)
        self._metrics = metrics
        self._change = change
        self._has_hung_up = has_hung_up
        self._begin = begin
        self._changes: set[asyncio.Task[None]] = set()  # which nobody else refers to

    def asgi(self) -> Router:
        """Return the application; queues run while it does."""
        return Router(default=self._answer, lifespan=self._running)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = str(uuid.uuid4())
        try:
            response = await self._route(Request(scope, receive), request_id)
        except Refused as refused:
            response = refused.response(request_id)
        except ClientDisconnect:
            return
        except Exception:
            logger.exception("camserve: a request failed")
            response = Refused("internal_error", "the server failed; its log says more").response(request_id)
        await response(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _running(self, _app: object) -> AsyncIterator[None]:
        for served in self._models.values():
            served.worker.start()
        if self._change is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._begin_change, self._change)
            if self._has_hung_up is not None and self._has_hung_up.is_set():
                self._begin_change(self._change)
        self._begin()
        yield
        for change in self._changes:
            change.cancel()
        for served in self._models.values():
            await served.worker.stop()

    def _begin_change(self, change: Change) -> None:
        task = asyncio.get_running_loop().create_task(change())
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    async def _route(self, request: Request, request_id: str) -> Response:
        path = request.scope["path"]
        if BAD_PATH.search(path):
            raise Refused("bad_path", "control characters, dots, backslashes and empty parts may not stand in a path")
        if (health := self._health(path)) is not None:
            if request.method != "GET":
                raise Refused("wrong_method", "send GET")
            return health
        if path == "/metrics":
            self._check_token(request)
            return Response(self._metrics.page(), media_type=METRICS_TYPE)
        for form in ROUTES:
            if found := form.fullmatch(path):
                return await self._ask(request, request_id, found)
        raise Refused(
            "no_such_route",
            "ask /predictions/MODEL, /explanations/MODEL, /v1/models/MODEL:predict, :explain, or "
            "/v2/models/MODEL/infer, explain",
        )

    def _health(self, path: str) -> Response | None:
        """Return the answer to a question for health, which needs no token."""
        stuck = [name for name, served in self._models.items() if served.worker.is_stuck]
        if path in ("/ping", "/v2/health/live"):
            return _json('{"status": "Unhealthy"}', 500) if stuck else _json('{"status": "Healthy"}')
        if path == "/v2/health/ready":
            return _ready(not stuck)
        if found := READY.fullmatch(path):
            return _ready(found["model"] in self._models and found["model"] not in stuck)
        return None

    async def _ask(self, request: Request, request_id: str, matched: re.Match[str]) -> Response:
        parts = matched.groupdict()
        if request.method not in ("POST", "PUT", "GET"):
            raise Refused("wrong_method", "send POST or PUT")
        if request.url.query:
            raise Refused(
                "query_string",
                "options do not stand after a question mark: send them as headers (x-camserve-target: tabby), form "
                "fields, JSON keys or path pairs",
            )
        if request.method == "GET" and not self._is_let_in(request) and _names_html(request):
            return _page_without_model()
        self._check_token(request)
        self._find(parts["model"], parts.get("version"))
        row = await self._receive(request, request_id, parts)
        served = self._find(parts["model"], parts.get("version"))  # it may have changed while the body came
        if request.method == "GET" and not wants_page(row):
            raise Refused("wrong_method", "send POST or PUT")
        answer = await served.worker.answer(row)
        headers = {**answer.headers, "X-Request-Id": request_id}
        if answer.status == 503:
            headers["Retry-After"] = "1"
        return Response(answer.body, answer.status, headers, answer.content_type)

    async def _receive(self, request: Request, request_id: str, parts: Mapping[str, str | None]) -> ReceivedRow:
        headers = lower_headers(request)
        headers["explain"] = str(parts["verb"] in EXPLAINING)
        headers["url_path"] = (parts.get("rest") or "").removeprefix("/")
        try:
            body = await asyncio.wait_for(self._bodies.read(request, self._most_bytes), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise Refused("bad_request", f"the body was not there after {BODY_SECONDS} s") from None
        return ReceivedRow(fields_of(body, headers), headers, request_id)

    def _find(self, name: str | None, version: str | None) -> Served:
        served = self._models.get(name or "")
        if served is None:
            raise Refused("no_such_model", f"the models here are: {', '.join(self._models)}")
        if version is not None and version != served.version:
            raise Refused("no_such_model", f"{name} is served in version {served.version} alone")
        return served

    def _check_token(self, request: Request) -> None:
        if not self._is_let_in(request):
            raise Refused("no_token", "send a valid token: Authorization: Bearer TOKEN")

    def _is_let_in(self, request: Request) -> bool:
        sent = request.headers.get("authorization", "")
        return hmac.compare_digest(sent.encode(), f"Bearer {self._token}".encode())


def _names_html(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "").lower()


def _page_without_model() -> Response:
    """The page asks for a token and reads the model with it: it holds nothing of any model."""
    page = render_page(None)
    return Response(page.body, 200, {**page.headers, "Cache-Control": "no-cache"}, HTML_TYPE)


def _ready(ready: bool) -> Response:
    return _json('{"ready": true}') if ready else _json('{"ready": false}', 503)


def _json(text: str, status: int = 200) -> Response:
    return Response(text, status, media_type=JSON_TYPE)
