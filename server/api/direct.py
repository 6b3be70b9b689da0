"""Searches answered straight from their connection, without a task or an application around them.

For a small search the machinery of a request (its task, its scope, two messages, three layers of
application) costs more than the search. A connection that has received one whole search request
reads it, hands it to the batcher, and writes the answer when it is there.

Invariants:

- The answer is the one that the application would give, byte for byte but for ids and times.
- Whatever is not plainly a search that can begin now goes to the application: another call, a body
  that is large or comes in chunks, a mistake in the request, a wait for an LSN.
- Answers leave a connection in the order of its requests.
- A search that is over is freed at once: nothing that it consists of points in a circle, so the
  garbage collector has no work with it.

Built on uvicorn's protocol for httptools, whose ``cycle`` is the request that is under way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from time import perf_counter
from typing import Any, NamedTuple

import orjson
import structlog
from starlette.datastructures import Headers
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from pgsync.lsn import parse_lsn
from server.auth import Scope
from server.mirror import MirrorLike
from server.problems import headers, kind_of, problem

from .answers import SearchJob
from .asking import Queries, check_limits, job_of, read_json, read_raw
from .bodies import FLOAT32, JSON, LARGE_JSON_BYTES
from .context import Context
from .deadlines import Deadline, Deadlines
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


class _Head(NamedTuple):
    """What the head of a plain search says; ``headers`` has the first value of each name."""

    name: bytes
    query_string: bytes
    headers: dict[bytes, bytes]
    begun_s: float


def direct_protocol(context: Context) -> Callable[..., HttpToolsProtocol]:
    """Return what uvicorn makes for each connection of a server with ``context``."""
    deadlines = Deadlines()

    def connect(**arguments: Any) -> HttpToolsProtocol:
        return DirectProtocol(context, deadlines, **arguments)

    return connect


class DirectProtocol(HttpToolsProtocol):
    """One connection. Calls that begin with ``on_`` come from the parser of requests."""

    def __init__(self, context: Context, deadlines: Deadlines, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.context, self.deadlines = context, deadlines
        #: A request that may be a plain search, and its body as far as it has come.
        self._head: _Head | None = None
        self._body: list[bytes] = []
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._answer_head = b""

    def on_message_begin(self) -> None:
        """Begin a request; what the application wants to know of it is made when it is asked."""
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        """Hold a request that may be a plain search back until it is whole."""
        self._head = self._plain_head()
        if self._head is None:
            self._hand_over()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._head is None:
            super().on_body(body)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer a plain search; let the application answer anything else."""
        head, pieces = self._head, self._body
        if head is None:
            super().on_message_complete()
            return
        self._head, self._body = None, []
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        try:
            _Search(self, head).begin(body)
        except Exception:  # a mistake is found again, and reported, by the application
            self._hand_over()
            if body:
                super().on_body(body)
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on to the next request, or wait for it as long as connections are kept.

        uvicorn would take a timer of the event loop for each answer.
        """
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        # Of a timer uvicorn only asks that it can be cancelled.
        self.timeout_keep_alive_task = self.deadlines.add(  # type: ignore[assignment]
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a client that went away in the middle of its body."""
        if self._head is not None:
            self.context.metrics.answered("POST", 499)
        # uvicorn leaves the timer of a connection that ended with an error to its end.
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def answer_head(self, status: int) -> bytes:
        """Return the status line with the headers that all answers have."""
        if self._default_headers is not self.server_state.default_headers:
            self._default_headers = self.server_state.default_headers
            pairs = [b"%b: %b\r\n" % pair for pair in self._default_headers]
            self._answer_head = b"".join(pairs)
        return STATUS_LINE[status] + self._answer_head

    def _plain_head(self) -> _Head | None:
        parser = self.parser
        if parser.get_method() != b"POST" or (self.cycle and not self.cycle.response_complete):
            return None
        matched = _TARGET.fullmatch(self.url)
        if matched is None or parser.get_http_version() != "1.1":
            return None
        headers = dict(reversed(self.headers))
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or int(length) > _LONGEST_BODY_BYTES:
            return None
        if self.expect_100_continue or parser.should_upgrade():
            return None
        return _Head(matched[1], matched[2] or b"", headers, perf_counter())

    def _hand_over(self) -> None:
        """Let the application begin with the request whose head is there."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expect
        self.scope["headers"] = headers
        super().on_headers_complete()


class _NobodyWaits:
    """Stands for the event that uvicorn sets when there is news for an application."""

    def set(self) -> None:
        """Do nothing: an answer finds out itself that the connection is closing."""


_NOBODY_WAITS = _NobodyWaits()


class _Search:
    """One search under way; the members without underscore are those of uvicorn's cycle."""

    def __init__(self, connection: DirectProtocol, head: _Head) -> None:
        self.response_complete, self.disconnected = False, False
        self.keep_alive = connection.parser.should_keep_alive()
        self.message_event = _NOBODY_WAITS
        self.body, self.more_body = b"", False
        self._connection, self._context, self._head = connection, connection.context, head
        self._deadline: Deadline | None = None

    def begin(self, body: bytes) -> None:
        """Check the request and hand it to the batcher; raise where the application must answer."""
        context, connection, head = self._context, self._connection, self._head
        if not context.keyring.is_open:
            check_key(context, Headers(raw=connection.headers), Scope.READ)
        name = head.name.decode()
        job = self._job(name, context.catalog.get(name), body)
        ticket = context.batcher.post(job.lane, job, job.n_queries, self._answered, kind=job.kind)
        limit_s = job.deadline_s - job.started_s

        def late() -> None:
            ticket.give_up()
            self._answered(too_late(1000 * limit_s))

        self._deadline = connection.deadlines.add(limit_s, late)
        # It has the members of a cycle that uvicorn looks at, see the class.
        connection.cycle = self  # type: ignore[assignment]

    def _job(self, name: str, mirror: MirrorLike, body: bytes) -> SearchJob:
        dim, limits = mirror.spec.table.dim, self._context.settings.server
        query_string, begun_s = self._head.query_string, self._head.begun_s
        options: SearchOptions
        queries: Queries | None
        if _media_type(self._head.headers.get(b"content-type", b"")) == FLOAT32:
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
        limit_ms, lag_ms = options.timeout_ms or limits.search_timeout_ms, self._context.lag_ms
        return job_of(
            mirror,
            options,
            queries,
            started_s=begun_s,
            deadline_s=begun_s + limit_ms / 1000,
            lag_ms=lambda applied_lsn: lag_ms(name, applied_lsn),
        )

    def _answered(self, result: bytes | Exception) -> None:
        """Write the answer and note it."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        request_id = request_id_of(self._head.headers.items())
        status, outcome = 200, "ok"
        if isinstance(result, Exception):
            kind = kind_of(result)
            status, outcome = kind.status, kind.code
            more = {"content-type": PROBLEM_JSON, **headers(result)}
            self._write(status, orjson.dumps(problem(result, request_id)), request_id, more)
        else:
            self._write(200, result, request_id, _OK_HEADERS)
        took_s = perf_counter() - self._head.begun_s
        self._context.metrics.searched(self._head.name.decode(), outcome, took_s)
        self._context.metrics.answered("POST", status)
        if status >= 400 or self._context.log_requests:
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                if status >= 500:
                    log.warning("problem", code=outcome, reason=str(result))
                log_request("POST", self._connection.url.decode("latin-1"), status, took_s)

    def _write(self, status: int, body: bytes, request_id: str, more: Mapping[str, str]) -> None:
        self.response_complete = True
        connection = self._connection
        if connection.transport.is_closing():
            return
        fields = [f"{name}: {value}\r\n" for name, value in more.items()]
        fields.append(f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\n")
        fields.append("\r\n" if self.keep_alive else "connection: close\r\n\r\n")
        head = connection.answer_head(status)
        connection.transport.write(b"".join([head, "".join(fields).encode("latin-1"), body]))
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()


@lru_cache(maxsize=64)
def _media_type(given: bytes) -> str:
    """Return what a content-type header means; raise _NotPlain unless it is one of a search."""
    media_type = given.partition(b";")[0].strip().lower().decode("latin-1") or JSON
    if media_type not in (JSON, FLOAT32):
        raise _NotPlain
    return media_type
