"""The two busiest calls without the framework around them.

FastAPI finds a route, opens exit stacks and solves dependencies for each request, which is more
work than a small search. A search or a change batch is recognised here by method and path, and
answered by the same function that the route names. The routes stay for the OpenAPI document, and
for every request that is not plainly one of the two.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from server.auth import Scope
from server.problems import KINDS, kind_of

from .changes import changes
from .context import Context
from .envelope import problem_response
from .guards import check_key
from .search import search

Endpoint: TypeAlias = Callable[[str, Request, Context], Awaitable[Response]]

_PATH = re.compile(r"/v1/indexes/([^/]+)/(search|changes)")
_EXPECTED = tuple(KINDS)

log = structlog.get_logger("vecmirror.server")


@dataclass(frozen=True, slots=True)
class _Call:
    endpoint: Endpoint
    scope: Scope


_CALLS = {"search": _Call(search, Scope.READ), "changes": _Call(changes, Scope.ADMIN)}


class ExpressLane:
    """ASGI middleware: answers searches and change batches, passes everything else on."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app, self._context = app, context

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Answer one request; what is no expected error goes up to the envelope."""
        found = None
        if scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path"):
            found = _PATH.fullmatch(scope["path"])
        if found is None:
            await self._app(scope, receive, send)
            return
        name, call = found.groups()
        request = Request(scope, receive)
        response = await self._answer(_CALLS[call], name, request)
        await response(scope, receive, send)

    async def _answer(self, call: _Call, name: str, request: Request) -> Response:
        try:
            check_key(self._context, request.headers, call.scope)
            return await call.endpoint(name, request, self._context)
        except ClientDisconnect:
            return nobody()
        except _EXPECTED as error:
            return expected_problem(error, request)


def expected_problem(error: Exception, request: Request) -> Response:
    """Return the answer to a request that failed as requests may; note what is the server's."""
    kind = kind_of(error)
    if kind.status >= 500:
        log.warning("problem", code=kind.code, reason=str(error))
    return problem_response(error, request.state.request_id)


def nobody() -> Response:
    """Return what stands for an answer when the client went away: 499, as nginx calls it."""
    return Response(status_code=499)
