"""The talk with a client that has logged in: simple and extended query, over one session.

Source: Postgres documentation, "Message Flow". Invariants:

- Each Query and each Sync is answered by exactly one ReadyForQuery, whatever went wrong.
- After an error in an extended query everything up to the next Sync is skipped.
- The statements of an extended query up to its Sync are one transaction.
- Messages are answered in the order in which they came; what has been asked ahead waits unread.
- Rows are fetched and sent a batch at a time, so that neither a long answer nor a slow reader makes
  memory grow, and others get their turn in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from types import TracebackType
from typing import Protocol

import structlog

from server.sql.answers import Prepared, Rows, SqlSession
from server.sql.errors import SqlError
from server.sql.types import HALFVEC, VECTOR

from . import messages, requests
from .cancelling import Interrupts
from .encoding import data_rows, parameters_of
from .framing import protocol_violation
from .limits import Limits
from .portals import Holdings, Named, Portal, Statement
from .stream import ConnectionLost, Stream

log = structlog.get_logger("vecmirror.sql")

#: Bytes of rows that are sent at once, about; the number of rows follows.
BATCH_BYTES = 1 << 17
#: Rows of the first batch, whose width is not known yet, and most rows of any.
FIRST_ROWS, FIRST_WIDE_ROWS, MOST_ROWS = 100, 10, 4_000
#: Types whose values are long.
_WIDE = (VECTOR, HALFVEC)
#: Parameters of more bytes than these are decoded in a thread, beside other connections' work.
_LONG_BYTES = 1 << 17
INTERNAL = "XX000"


class Figures(Protocol):
    """Where a connection counts what it does."""

    def ran(self, outcome: str, seconds: float) -> None:
        """Count a statement; ``outcome`` is ok or its error's SQLSTATE."""
        ...


class Conversation:
    """One connection after its login."""

    def __init__(
        self,
        session: SqlSession,
        stream: Stream,
        interrupts: Interrupts,
        limits: Limits,
        figures: Figures,
    ) -> None:
        self._session, self._stream, self._interrupts = session, stream, interrupts
        self._limits = limits
        self._counted = _Counted(interrupts, figures)
        self._held = Holdings(2 * limits.max_message_bytes)
        session.named = Named(self._held)
        self._told = session.reported
        #: Whether statements have run since the last Sync: a transaction is open.
        self._skipping = self._pipelining = False
        self._extended: dict[int, Callable[[bytes], Awaitable[None]]] = {
            ord("P"): self._parse,
            ord("B"): self._bind,
            ord("D"): self._describe,
            ord("E"): self._execute,
            ord("C"): self._close,
        }

    async def run(self) -> None:
        """Answer messages until Terminate. Raise ConnectionLost, and SqlError for a fatal end."""
        self._ready()
        await self._stream.flush()
        while True:
            kind, body = await self._stream.message(*self._patience())
            if kind == ord("X"):
                return
            await self._answer(kind, body)
            if self._stream.unsent_bytes >= BATCH_BYTES:
                await self._stream.flush()

    def _patience(self) -> tuple[float, Callable[[], SqlError]]:
        """Return how long to wait for the next message, and what makes the error after that."""
        if self._session.status == "I" and not self._pipelining:
            return self._limits.idle_timeout_s, _idle
        return self._limits.idle_in_transaction_timeout_s, _idle_in_transaction

    async def _answer(self, kind: int, body: bytes) -> None:
        if kind == ord("Q"):
            self._skipping = False
            await self._guarded(self._query(body))
            await self._end_of_request()
        elif kind == ord("S"):
            self._skipping = False
            await self._end_of_request()
        elif kind == ord("H"):
            await self._stream.flush()
        elif kind in self._extended:
            if not self._skipping:
                self._skipping = not await self._guarded(self._extended[kind](body))
        elif kind == ord("F"):
            self._fail(SqlError("0A000", "function calls are not supported; use SELECT"))
            await self._end_of_request()
        elif kind == ord("p"):
            raise protocol_violation("a password was not asked for")
        # The rest belongs to COPY; after a COPY that was refused it may still come (CopyFail).

    async def _guarded(self, work: Awaitable[None]) -> bool:
        """Do ``work``; return whether it went well. An error is told to the client."""
        try:
            await work
        except ConnectionLost:
            raise
        except Exception as error:
            known = error if isinstance(error, SqlError) else _internal(error)
            self._fail(known)
            if known.fatal:
                raise
            return False
        return True

    def _fail(self, error: SqlError) -> None:
        self._session.failed()
        if not error.fatal:  # a fatal one is told by who ends the connection
            self._stream.write(messages.error_response(error))

    def _ready(self) -> None:
        """Say that the next request may come, and before that which settings have changed."""
        reported = self._session.reported
        if reported is not self._told:
            for name, value in reported.items():
                if value != self._told.get(name):
                    self._stream.write(messages.parameter_status(name, value))
            self._told = reported
        self._stream.write(messages.READY[self._session.status])

    async def _end_of_request(self) -> None:
        self._pipelining = False
        self._session.end_implicit()
        if self._session.status == "I":
            self._held.close_portals()
        self._ready()
        await self._stream.flush()

    # Simple query

    async def _query(self, body: bytes) -> None:
        text = requests.query(body)
        self._held.close_statement("")
        self._held.close_portal("")
        parts = self._session.statements(text)
        if not parts:
            self._stream.write(messages.EMPTY_QUERY)
        if len(parts) == 1 and len(parts[0]) == len(text):
            await self._run_simple(text)
            return
        end = 0
        for part in parts:
            start = max(text.find(part, end), end)
            end = start + len(part)
            if len(parts) > 1:
                self._session.begin_implicit()
            try:
                await self._run_simple(part)
            except SqlError as error:
                if error.position is not None:
                    error.position += start
                raise

    async def _run_simple(self, text: str) -> None:
        with self._counted:
            prepared = await self._session.prepare(text, ())
            if prepared.parameter_oids:
                raise SqlError("42P02", "there is no parameter $1")
            statement = Statement(prepared, 0)
            answer = await self._session.run(prepared, ())
            formats = (0,) * statement.n_columns
            if answer.rows is not None:
                self._stream.write(statement.description(formats))
            await self._send(Portal(statement, (), formats, 0, answer), 0)

    # Extended query

    async def _parse(self, body: bytes) -> None:
        request = requests.parse(body)
        if not request.name:
            self._held.close_statement("")
        with self._interrupts:
            prepared = await self._prepared(request)
        self._held.add_statement(request.name, Statement(prepared, len(body)))
        self._stream.write(messages.PARSE_COMPLETE)

    async def _prepared(self, request: requests.Parse) -> Prepared | None:
        text = request.text
        if ";" in text or text.lstrip()[:2] in ("", "--", "/*"):
            parts = self._session.statements(text)
            if not parts:
                return None
            if len(parts) > 1:
                message = "cannot insert multiple commands into a prepared statement"
                raise SqlError("42601", message)
        return await self._session.prepare(text, request.oids)

    async def _bind(self, body: bytes) -> None:
        request = requests.bind(body)
        statement = self._held.statement(request.statement)
        oids = statement.prepared.parameter_oids if statement.prepared else ()
        if len(request.values) != len(oids):
            raise SqlError(
                "08P01",
                f"bind message supplies {len(request.values)} parameters, but prepared statement"
                f' "{request.statement}" requires {len(oids)}',
            )
        formats = requests.spread(request.formats, len(oids))
        result_formats = requests.spread(request.result_formats, statement.n_columns)
        if len(body) > _LONG_BYTES:
            values = await asyncio.to_thread(parameters_of, request.values, formats, oids)
        else:
            values = parameters_of(request.values, formats, oids)
        portal = Portal(statement, values, result_formats, len(body))
        self._held.add_portal(request.portal, portal)
        self._stream.write(messages.BIND_COMPLETE)

    async def _describe(self, body: bytes) -> None:
        target = requests.target(body)
        if not target.is_statement:
            portal = self._held.portal(target.name)
            self._stream.write(portal.statement.description(portal.formats))
            return
        statement = self._held.statement(target.name)
        oids = statement.prepared.parameter_oids if statement.prepared else ()
        self._stream.write(messages.parameter_description(oids))
        self._stream.write(statement.description((0,) * statement.n_columns))

    async def _execute(self, body: bytes) -> None:
        request = requests.execute(body)
        portal = self._held.portal(request.portal)
        prepared = portal.statement.prepared
        if prepared is None:
            self._stream.write(messages.EMPTY_QUERY)
            return
        self._pipelining = True
        self._session.begin_pipelined()
        with self._counted:
            if portal.answer is None:
                portal.answer = await self._session.run(prepared, portal.parameters)
            else:
                self._check_again(portal, request.portal)
            await self._send(portal, request.max_rows)

    def _check_again(self, portal: Portal, name: str) -> None:
        """Raise unless the rest of a portal's rows may be fetched."""
        assert portal.answer is not None
        if self._session.status == "E":
            message = "current transaction is aborted, commands ignored until end of transaction"
            raise SqlError("25P02", f"{message} block")
        if portal.answer.rows is None:
            raise SqlError("55000", f'portal "{name}" cannot be run')

    async def _close(self, body: bytes) -> None:
        target = requests.target(body)
        if target.is_statement:
            self._held.close_statement(target.name)
        else:
            self._held.close_portal(target.name)
        self._stream.write(messages.CLOSE_COMPLETE)

    # Answers

    async def _send(self, portal: Portal, max_rows: int) -> None:
        """Send what a statement answered; up to ``max_rows`` of its rows, 0 for all."""
        answer = portal.answer
        assert answer is not None
        for notice in answer.notices:
            self._stream.write(messages.notice_response(notice))
        tag = answer.tag
        if answer.rows is not None:
            sent = await self._send_rows(portal, answer.rows, max_rows)
            if max_rows and sent == max_rows:
                self._stream.write(messages.PORTAL_SUSPENDED)
                return
            if answer.counted:
                tag = f"{tag} {sent}"
        self._stream.write(messages.command_complete(tag))

    async def _send_rows(self, portal: Portal, rows: Rows, max_rows: int) -> int:
        """Send rows, a batch at a time; return how many."""
        writers = portal.statement.writers(portal.formats)
        sent, batch = 0, _first_batch(portal)
        while not portal.finished and not (max_rows and sent == max_rows):
            wanted = min(batch, max_rows - sent) if max_rows else batch
            found = await rows.fetch(wanted)
            portal.finished = len(found) < wanted
            if not found:
                break
            data = data_rows(found, writers)
            self._stream.write(data)
            sent += len(found)
            batch = _next_batch(len(found), len(data))
            if self._stream.unsent_bytes >= BATCH_BYTES:
                await self._stream.flush()
                await asyncio.sleep(0)
        return sent


class _Counted:
    """Lets what runs inside be interrupted, and counts it; one for all statements of a talk."""

    __slots__ = ("_figures", "_interrupts", "_started_s")

    def __init__(self, interrupts: Interrupts, figures: Figures) -> None:
        self._interrupts, self._figures, self._started_s = interrupts, figures, 0.0

    def __enter__(self) -> None:
        self._started_s = perf_counter()
        self._interrupts.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._interrupts.__exit__(kind, error, traceback)
        except SqlError as reason:
            error = reason
            raise
        finally:
            self._figures.ran(_outcome(error), perf_counter() - self._started_s)


def _outcome(error: BaseException | None) -> str:
    """Return what a statement that ended with ``error`` is counted as."""
    if error is None:
        return "ok"
    if isinstance(error, SqlError):
        return error.sqlstate
    return "lost" if isinstance(error, ConnectionLost) else INTERNAL


def _internal(error: Exception) -> SqlError:
    """Return what a client is told of a mistake of ours; the log has the rest."""
    if isinstance(error, MemoryError):
        return SqlError("53200", "out of memory")
    log.error("a statement failed unexpectedly", exc_info=error)
    return SqlError(INTERNAL, "internal error; the server's log says more")


def _idle() -> SqlError:
    message = "terminating connection due to idle-session timeout"
    return SqlError("57P05", message, fatal=True)


def _idle_in_transaction() -> SqlError:
    message = "terminating connection due to idle-in-transaction timeout"
    return SqlError("25P03", message, fatal=True)


def _first_batch(portal: Portal) -> int:
    prepared = portal.statement.prepared
    columns = (prepared.columns if prepared else None) or ()
    return FIRST_WIDE_ROWS if any(column.oid in _WIDE for column in columns) else FIRST_ROWS


def _next_batch(n_rows: int, n_bytes: int) -> int:
    """Return the number of rows that make about BATCH_BYTES, if they are like the last ones."""
    return max(1, min(MOST_ROWS, BATCH_BYTES * n_rows // n_bytes))
