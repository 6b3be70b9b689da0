"""Searches answered straight from their connection, without a task or an application around them.

For a small search the machinery of a request (its task, its scope, two messages, three layers of
application) costs more than the search. A connection that has received one whole search request
reads it, hands it to the batcher, and writes the answer when it is there.

Invariants:

- The answer is the one that the application would give, byte for byte but for ids and times.
- Whatever is not plainly a search that can begin now goes to the application: another call, a body
  that is large or comes in chunks, a mistake in the request, a wait for an LSN.
- Answers leave a connection in the order of its requests.

Built on uvicorn's protocol for httptools, whose ``cycle`` is the request that is under way.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import orjson
import structlog
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from pgsync.lsn import parse_lsn
from server.auth import Scope
from server.mirror import MirrorLike
from server.problems import headers, kind_of, problem

from .answers import SearchJob
from .asking import Queries, check_limits, job_of, read_json, read_raw
from .bodies import FLOAT32, JSON, LARGE_JSON_BYTES
from .context import Context
from .envelope import PROBLEM_JSON, log_request, request_id_of
from .guards import check_key
from .schemas import SearchOptions
from .search import too_late

_TARGET = re.compile(rb"/v1/indexes/([A-Za-z0-9_.-]+)/search(?:\?([^#]*))?")
_LONGEST_BODY_BYTES = LARGE_JSON_BYTES
_OK_HEADERS = {"content-type": JSON}

log = structlog.get_logger("vecmirror.server")


class _NotPlain(Exception):
    """The application shall answer."""


def direct_protocol(context: Context) -> Callable[..., HttpToolsProtocol]:
    """Return what uvicorn makes for each connection of a server with ``context``."""

    def connect(**arguments: Any) -> HttpToolsProtocol:
        return DirectProtocol(context, **arguments)

    return connect


class DirectProtocol(HttpToolsProtocol):
    """One connection. Calls that begin with ``on_`` come from the parser of requests."""

    def __init__(self, context: Context, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._context = context
        #: The body of a request that may be a plain search, as far as it has come.
        self._held: list[bytes] | None = None
        self._begun_s = 0.0

    def on_headers_complete(self) -> None:
        """Hold a request that may be a plain search back until it is whole."""
        if self._may_be_plain():
            self._held, self._begun_s = [], perf_counter()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._held is None:
            super().on_body(body)
        else:
            self._held.append(body)

    def on_message_complete(self) -> None:
        """Answer a plain search; let the application answer anything else."""
        if self._held is None:
            super().on_message_complete()
            return
        body, self._held = b"".join(self._held), None
        try:
            _Search(self, self._context, self._begun_s).begin(body)
        except Exception:  # a mistake is found again, and reported, by the application
            super().on_headers_complete()
            if body:
                super().on_body(body)
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a client that went away in the middle of its body."""
        if self._held is not None:
            self._context.metrics.answered("POST", 499)
        super().connection_lost(exc)

    def _may_be_plain(self) -> bool:
        if self.parser.get_method() != b"POST" or (self.cycle and not self.cycle.response_complete):
            return False
        if _TARGET.fullmatch(self.url) is None or self.parser.get_http_version() != "1.1":
            return False
        length = next((value for name, value in self.headers if name == b"content-length"), b"")
        plain = length.isdigit() and int(length) <= _LONGEST_BODY_BYTES
        return plain and not self.expect_100_continue and not self.parser.should_upgrade()


class _NobodyWaits:
    """Stands for the event that uvicorn sets when there is news for an application."""

    def set(self) -> None:
        """Do nothing: an answer finds out itself that the connection is closing."""


_NOBODY_WAITS = _NobodyWaits()


class _Search:
    """One search under way; the members without underscore are those of uvicorn's cycle."""

    def __init__(self, connection: DirectProtocol, context: Context, begun_s: float) -> None:
        self.response_complete, self.disconnected = False, False
        self.keep_alive = connection.parser.should_keep_alive()
        self.message_event = _NOBODY_WAITS
        self.body, self.more_body = b"", False
        self._connection, self._context, self._begun_s = connection, context, begun_s
        self._timer: asyncio.TimerHandle | None = None
        self._request_id = request_id_of(connection.headers)

    def begin(self, body: bytes) -> None:
        """Check the request and hand it to the batcher; raise where the application must answer."""
        context, connection = self._context, self._connection
        matched = _TARGET.fullmatch(connection.url)
        assert matched is not None
        if not context.keyring.is_open:
            check_key(context, Request(dict(connection.scope)), Scope.READ)
        self._name = matched[1].decode()
        mirror = context.catalog.get(self._name)
        job = self._job(mirror, matched[2] or b"", body)
        self._ticket = context.batcher.post(
            job.lane, job, job.n_queries, self._answered, kind=job.kind
        )
        limit_s = job.deadline_s - job.started_s
        self._timer = connection.loop.call_later(limit_s, self._late, 1000 * limit_s)
        connection.cycle = self  # type: ignore[assignment]

    def _job(self, mirror: MirrorLike, query_string: bytes, body: bytes) -> SearchJob:
        dim, limits = mirror.spec.table.dim, self._context.settings.server
        options: SearchOptions
        queries: Queries | None
        if self._media_type() == FLOAT32:
            options, queries = read_raw(query_string, body, dim)
        elif query_string:
            raise _NotPlain
        else:
            options, queries = read_json(body, dim)
        check_limits(options, queries, dim, limits)
        if options.consistency == "strong" or (
            options.min_lsn and parse_lsn(options.min_lsn) > mirror.state.applied_lsn
        ):
            raise _NotPlain
        limit_ms = options.timeout_ms or limits.search_timeout_ms
        return job_of(
            mirror,
            options,
            queries,
            started_s=self._begun_s,
            deadline_s=self._begun_s + limit_ms / 1000,
            lag_ms=lambda applied_lsn: self._context.lag_ms(self._name, applied_lsn),
        )

    def _media_type(self) -> str:
        given = next(
            (value for name, value in self._connection.headers if name == b"content-type"), b""
        )
        media_type = given.partition(b";")[0].strip().lower().decode("latin-1") or JSON
        if media_type not in (JSON, FLOAT32):
            raise _NotPlain
        return media_type

    def _late(self, limit_ms: float) -> None:
        self._timer = None
        self._ticket.give_up()
        self._answered(too_late(limit_ms))

    def _answered(self, result: bytes | Exception) -> None:
        """Write the answer and note it."""
        if self._timer is not None:
            self._timer.cancel()
        status, outcome = 200, "ok"
        if isinstance(result, Exception):
            kind = kind_of(result)
            status, outcome = kind.status, kind.code
            more = {"content-type": PROBLEM_JSON, **headers(result)}
            self._write(status, orjson.dumps(problem(result, self._request_id)), more)
        else:
            self._write(200, result, _OK_HEADERS)
        took_s = perf_counter() - self._begun_s
        self._context.metrics.searched(self._name, outcome, took_s)
        self._context.metrics.answered("POST", status)
        if status >= 400 or self._context.log_requests:
            with structlog.contextvars.bound_contextvars(request_id=self._request_id):
                if status >= 500:
                    log.warning("problem", code=outcome, reason=str(result))
                log_request("POST", self._connection.url.decode("latin-1"), status, took_s)

    def _write(self, status: int, body: bytes, more: Mapping[str, str]) -> None:
        self.response_complete = True
        connection = self._connection
        if connection.transport.is_closing():
            return
        head = [STATUS_LINE[status]]
        head += [b"%b: %b\r\n" % pair for pair in connection.server_state.default_headers]
        fields = [f"{name}: {value}\r\n" for name, value in more.items()]
        fields.append(f"content-length: {len(body)}\r\nx-request-id: {self._request_id}\r\n")
        fields.append("\r\n" if self.keep_alive else "connection: close\r\n\r\n")
        connection.transport.write(b"".join([*head, "".join(fields).encode("latin-1"), body]))
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()
