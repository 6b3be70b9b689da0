"""What surrounds every request: its id, its access log line, its place in the figures.

A request that was answered as asked is a line of level debug: the figures tell of those.

Plain ASGI, outside of FastAPI, so that nothing that happens inside can escape it: what no handler
caught becomes a problem without internals here, and its traceback goes to the log.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from time import perf_counter

import orjson
import structlog
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.metrics import Metrics
from server.problems import headers, kind_of, problem

REQUEST_ID = "X-Request-ID"
PROBLEM_JSON = "application/problem+json"
_REQUEST_ID = REQUEST_ID.lower().encode()

#: A caller's own id is taken over when it can do no harm in a log line or a header.
_SAFE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})

log = structlog.get_logger("vecmirror.http")


class Envelope:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other scopes (lifespan) pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _Exchange(scope, send, self._metrics).run(self._app, receive)


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, send: Send, metrics: Metrics) -> None:
        self._scope, self._send, self._metrics = scope, send, metrics
        self._status = 0
        self._request_id = request_id_of(scope["headers"])
        scope.setdefault("state", {})["request_id"] = self._request_id

    async def run(self, app: ASGIApp, receive: Receive) -> None:
        started_s = perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=self._request_id):
            try:
                await app(self._scope, receive, self._answer)
            except Exception as error:
                log.exception("request failed", path=self._scope["path"])
                if self._status == 0:
                    await problem_response(error, self._request_id)(
                        self._scope, receive, self._answer
                    )
            finally:
                self._note(perf_counter() - started_s)

    async def _answer(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            MutableHeaders(scope=message)[REQUEST_ID] = self._request_id
        await self._send(message)

    def _note(self, took_s: float) -> None:
        method = self._scope["method"] if self._scope["method"] in _METHODS else "other"
        status = self._status or 499  # nobody was left to answer
        self._metrics.answered(method, status)
        log_request(method, self._scope["path"], status, took_s)


def log_request(method: str, path: str, status: int, took_s: float) -> None:
    """Log one request, by level of its status."""
    say = log.debug if status < 400 else log.info if status < 500 else log.warning
    say("request", method=method, path=path, status=status, took_ms=round(took_s * 1000, 3))


def problem_response(error: BaseException, request_id: str) -> Response:
    """Return the answer to a request that failed with ``error``."""
    return Response(
        orjson.dumps(problem(error, request_id)),
        kind_of(error).status,
        headers(error),
        media_type=PROBLEM_JSON,
    )


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the caller's id of a request, or a new one."""
    given = next((value for name, value in headers if name == _REQUEST_ID), b"")
    return given.decode() if _SAFE_ID.fullmatch(given) else os.urandom(16).hex()
