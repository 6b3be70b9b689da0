"""One client of the SQL port: the thin shell of sockets, timers and tasks around its conversation.

Invariants:

- What a client makes the server hold is bounded: a message by its header, unread messages and
  unsent answers by high-water marks above which the transport waits.
- A client that neither reads nor goes away is cut after ``write_timeout_s``.
- A client with much to say lets others have their turn every ``_TURN_S``.
- However a connection ends, its session is closed and its cancel key forgotten.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Protocol, TypeVar, cast

import structlog

from server.auth import Scope
from server.sql.errors import SqlError
from server.sql.login import Login, OpenSession

from . import conversation, handshake, messages
from .cancelling import CancelKeys, Interrupts, shutting_down
from .doorkeeper import Doorkeeper
from .framing import Inbox, protocol_violation
from .limits import Limits
from .requests import CancelRequest
from .scram import Verifiers
from .stream import ConnectionLost

log = structlog.get_logger("vecmirror.sql")

Got = TypeVar("Got")

#: Unread bytes above which the transport stops reading, and unsent ones above which we wait.
_HIGH_WATER_BYTES = 1 << 18
#: Seconds after which other connections get their turn.
_TURN_S = 0.005
#: Seconds that the last words may take.
_GOODBYE_S = 5.0


class Figures(conversation.Figures, Protocol):
    """Where connections count what happens to them."""

    def logged_in(self, outcome: str) -> None:
        """Count a login; ``outcome`` is ok or its error's SQLSTATE."""
        ...


@dataclass(slots=True)
class Service:
    """What all connections share. ``binding``: tls-server-end-point of the certificate."""

    open_session: OpenSession
    verifiers: Verifiers
    limits: Limits
    figures: Figures
    max_connections: int
    ssl_context: ssl.SSLContext | None = None
    binding: bytes | None = None
    require_tls: bool = False
    keys: CancelKeys = field(default_factory=CancelKeys)
    doorkeeper: Doorkeeper = field(default_factory=Doorkeeper)
    #: Connections that have not logged in, the oldest first, and those that have.
    waiting: dict[Connection, str] = field(default_factory=dict)
    inside: set[Connection] = field(default_factory=set)

    def arrive(self, connection: Connection, address: str) -> None:
        """Take a new connection; where too many wait for a login, the pushiest address loses one.

        So a crowd of strangers keeps nobody out for long, and costs those inside nothing.
        """
        if len(self.waiting) >= self.max_connections:
            ((pushiest, _),) = Counter(self.waiting.values()).most_common(1)
            oldest = next(one for one, theirs in self.waiting.items() if theirs == pushiest)
            del self.waiting[oldest]
            oldest.abort()
        self.waiting[connection] = address

    def enter(self, connection: Connection) -> None:
        """Let a connection in after its login; raise 53300 where there is no room."""
        if len(self.inside) >= self.max_connections:
            hint = "close idle connections, or raise sql.max_connections"
            raise SqlError("53300", "sorry, too many clients already", hint=hint, fatal=True)
        self.waiting.pop(connection, None)
        self.inside.add(connection)

    def leave(self, connection: Connection) -> None:
        """Forget a connection."""
        self.waiting.pop(connection, None)
        self.inside.discard(connection)


class Connection(asyncio.Protocol):
    """One client, as Stream and Entrance know it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._inbox = Inbox(service.limits.max_message_bytes)
        self._interrupts = Interrupts(service.limits.statement_timeout_s)
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._arrival: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._lost = self._reading_paused = self._encrypted = False
        self._ending: SqlError | None = None
        self._goodbye: asyncio.TimerHandle | None = None
        self._turn_s = 0.0
        self.task: asyncio.Task[None] | None = None

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to talk."""
        # uvloop's transports are asyncio's in all but name.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else "local"
        self._service.arrive(self, self._address)
        self.task = self._loop.create_task(self._live())

    def data_received(self, data: bytes) -> None:
        """Keep what came, for when it is read."""
        self._inbox.feed(data)
        if self._arrival is not None:
            if not self._arrival.done():
                self._arrival.set_result(None)
        elif len(self._inbox) > _HIGH_WATER_BYTES and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """Wake up whoever waits for this client, and end what runs for it."""
        self._lost = True
        if self._goodbye is not None:
            self._goodbye.cancel()
        for waiting in (self._arrival, self._drained):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
        self._interrupts.interrupt(SqlError("08006", "the client is gone", fatal=True))

    def pause_writing(self) -> None:
        """Note that the client reads slower than we write."""
        if self._drained is None:
            self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        """Go on writing."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # Called by the port

    def end(self, error: SqlError) -> None:
        """End the connection with ``error`` once no statement runs."""
        self._ending = error
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def end_now(self, error: SqlError) -> None:
        """End the connection with ``error``, and what it runs as well."""
        self.end(error)
        self._interrupts.interrupt(error)

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    # Stream

    async def message(
        self, timeout_s: float = 0, late: Callable[[], SqlError] = shutting_down
    ) -> tuple[int, bytes]:
        """Return kind and body of the next message."""
        return await self._next(self._inbox.message, timeout_s, late)

    async def startup_packet(self) -> bytes:
        """Return the next packet without a kind."""
        return await self._next(self._inbox.startup_packet, 0, shutting_down)

    async def _next(
        self, take: Callable[[], Got | None], timeout_s: float, late: Callable[[], SqlError]
    ) -> Got:
        found = take() if not (self._lost or self._ending) else None
        if found is None:
            timer = self._loop.call_later(timeout_s, self._wake, late) if timeout_s else None
            try:
                found = await self._arrived(take)
            finally:
                if timer is not None:
                    timer.cancel()
        elif perf_counter() - self._turn_s > _TURN_S:
            await asyncio.sleep(0)
            self._turn_s = perf_counter()
        return found

    async def _arrived(self, take: Callable[[], Got | None]) -> Got:
        while True:
            if self._ending is not None:
                raise self._ending
            if self._lost:
                raise ConnectionLost
            if (found := take()) is not None:
                return found
            if self._reading_paused:
                self._reading_paused = False
                self._transport.resume_reading()
            self._arrival = self._loop.create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
            self._turn_s = perf_counter()

    def _wake(self, error: Callable[[], SqlError]) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_exception(error())

    def write(self, data: bytes) -> None:
        """Add messages to what is sent next."""
        self._out.append(data)
        self._out_bytes += len(data)

    @property
    def unsent_bytes(self) -> int:
        """How much was written and not flushed."""
        return self._out_bytes

    async def flush(self) -> None:
        """Send what was written; wait while the client reads slower."""
        if self._lost:
            raise ConnectionLost
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()
            self._out_bytes = 0
        if self._drained is not None:
            timer = self._loop.call_later(self._service.limits.write_timeout_s, self.abort)
            try:
                # Shielded: a statement that is cancelled here must not end others' waiting.
                await asyncio.shield(self._drained)
            finally:
                timer.cancel()
            if self._lost:
                raise ConnectionLost

    # Entrance

    @property
    def offers_tls(self) -> bool:
        """Whether the connection can be encrypted, and is not yet."""
        return self._service.ssl_context is not None and not self._encrypted

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection is encrypted."""
        return self._encrypted

    async def reply(self, byte: bytes) -> None:
        """Send the answer to a request for encryption."""
        self.write(byte)
        await self.flush()

    async def start_tls(self) -> None:
        """Encrypt the connection."""
        if len(self._inbox):
            # Somebody in between may have put it there (CVE-2021-23214).
            raise protocol_violation("received unencrypted data after SSL request")
        assert self._service.ssl_context is not None
        try:
            transport = await self._loop.start_tls(
                self._transport,
                self,
                self._service.ssl_context,
                server_side=True,
                ssl_handshake_timeout=self._service.limits.startup_timeout_s,
            )
        except OSError as error:  # ssl.SSLError is one
            raise ConnectionLost from error
        if transport is None:
            raise ConnectionLost
        self._transport, self._encrypted = transport, True
        transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)

    # The connection's task

    async def _live(self) -> None:
        try:
            await self._talk()
        except ConnectionLost:
            pass
        except SqlError as error:
            self._say(error)
        except Exception:
            log.exception("a connection failed unexpectedly")
            self._say(SqlError("XX000", "internal error; the server's log says more", fatal=True))
        finally:
            self._service.leave(self)
            self._part()

    def _say(self, error: SqlError) -> None:
        """Send the last words; every error that gets here is fatal."""
        error.fatal = True
        self.write(messages.error_response(error))

    def _part(self) -> None:
        """Close once the last words are sent; cut the connection if they are not read in time."""
        if not self._lost:
            self._transport.write(b"".join(self._out))
            self._transport.close()
            self._goodbye = self._loop.call_later(_GOODBYE_S, self.abort)

    async def _talk(self) -> None:
        try:
            async with asyncio.timeout(self._service.limits.startup_timeout_s):
                greeting = await handshake.greet(self, require_tls=self._service.require_tls)
                if isinstance(greeting, CancelRequest):
                    self._service.keys.cancel(greeting.process_id, greeting.key)
                    return
                scope = await self._authenticate()
        except TimeoutError:
            message = "canceling authentication due to timeout"
            raise SqlError("57014", message, fatal=True) from None
        except SqlError as error:
            await self._refuse(error)
            raise
        self._service.enter(self)
        self._service.figures.logged_in("ok")
        self._inbox.logged_in = True
        await self._converse(greeting, scope)

    async def _authenticate(self) -> Scope:
        binding = self._service.binding if self._encrypted else None
        return await handshake.authenticate(self, self._service.verifiers, binding)

    async def _refuse(self, error: SqlError) -> None:
        """Count a login that failed; answer a wrong password late."""
        self._service.figures.logged_in(error.sqlstate)
        if error.sqlstate == "28P01":
            await asyncio.sleep(self._service.doorkeeper.failed(self._address, monotonic()))

    async def _converse(self, greeting: handshake.Greeting, scope: Scope) -> None:
        keys, parameters = self._service.keys, dict(greeting.parameters)
        process_id, key = keys.issue(self._interrupts.interrupt, greeting.key_bytes)
        user = parameters.pop("user")
        database = parameters.pop("database", "") or user
        try:
            session = self._service.open_session(
                Login(user, database, scope, process_id, parameters)
            )
            try:
                self.write(handshake.welcome(greeting, session.reported, process_id, key))
                limits, figures = self._service.limits, self._service.figures
                talk = conversation.Conversation(session, self, self._interrupts, limits, figures)
                await talk.run()
            finally:
                session.close()
        finally:
            keys.revoke(process_id)
            self._interrupts.close()
