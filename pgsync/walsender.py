"""ReplicationStream: the conversation with one walsender, on psycopg's libpq wrapper.

psycopg runs the command; after START_REPLICATION only ``conn.pgconn`` is used, for psycopg has no
replication cursor. https://www.postgresql.org/docs/current/protocol-replication.html

Invariants:

- A status message carries flush = 0 unless a durable LSN is being confirmed. A flush position that
  lags behind what was sent makes the primary's fast shutdown wait for ever; 0 does not, because
  the walsender then looks at the write position, which is always what was received.
- The walsender hears from us at least every ``STATUS_INTERVAL_S``, however busy the caller is,
  provided ``wait`` or ``drain`` is called that often.
- Only one thread uses a stream, but for ``confirm``.
"""

from __future__ import annotations

import select
import struct
import threading
import time
from types import TracebackType
from typing import Protocol

import psycopg
from psycopg import errors, sql
from psycopg.rows import TupleRow

from .connections import (
    SystemIdentity,
    connect_replication,
    identify_system,
    raise_for_result,
    source_error,
    translated,
)
from .errors import DecodeError, SourceUnavailable
from .lsn import format_lsn

#: 'w', start of the data, end of the log, microseconds since 2000; then the pgoutput message.
_XLOG_DATA = struct.Struct(">xQQq")
#: 'k', end of what was sent, microseconds since 2000, whether an answer is wanted.
_KEEPALIVE = struct.Struct(">xQqB")
#: 'r', written, flushed, applied, microseconds since 2000, whether an answer is wanted.
_STATUS = struct.Struct(">cQQQqB")

_XLOG_TAG, _KEEPALIVE_TAG = ord("w"), ord("k")
_POSTGRES_EPOCH_US = 946_684_800_000_000

#: wal_sender_timeout is 60 s unless changed; a second is far from any setting in use.
STATUS_INTERVAL_S = 1.0

#: Bound of every wait: data that TLS has decrypted already does not make a socket readable.
MAX_WAIT_S = 1.0

#: A walsender whose client died owns the slot until it notices, mostly for well under a second.
SLOT_BUSY_RETRY_S = 10.0

#: A peer that takes no 34 bytes for this long is gone.
_SEND_TIMEOUT_S = 10.0

#: The slot or its publication is gone (42704); the slot has been invalidated (55000).
_RESYNC_STATES = frozenset({"42704", "55000"})


class StreamHandler(Protocol):
    """What takes the messages; ``ChangeAssembler`` does."""

    def feed(self, wal_start: int, payload: bytes | memoryview) -> None:
        """Take one pgoutput message."""

    def keepalive(self, wal_end: int) -> None:
        """Learn that everything before ``wal_end`` has been sent."""


class ReplicationStream:
    """An open stream of one slot. ``identity`` is that of the server it comes from."""

    def __init__(self, conn: psycopg.Connection[TupleRow], identity: SystemIdentity) -> None:
        self._conn = conn
        self._pg = conn.pgconn
        self.identity = identity
        self.received_lsn = 0
        self._confirm_lsn = 0
        self._confirmed_lsn = 0
        self._last_status_s = 0.0
        self._reply_wanted = False
        self._more_buffered = True

    @classmethod
    def open(
        cls,
        dsn: str,
        slot: str,
        publication: str,
        start_lsn: int,
        *,
        stop: threading.Event | None = None,
        busy_retry_s: float = SLOT_BUSY_RETRY_S,
    ) -> ReplicationStream:
        """Start streaming at ``start_lsn``; raise SourceError.

        Postgres silently moves a start below the slot's confirmed position up to it: compare the
        two before. ResyncNeeded means that the slot is missing or lost; SourceUnavailable also
        that another client still streams from it after ``busy_retry_s``.
        """
        conn = connect_replication(dsn)
        try:
            stream = cls(conn, identify_system(conn))
            command = start_command(conn.info.server_version, slot, publication, start_lsn)
            _start(conn, slot, command, stop or threading.Event(), busy_retry_s)
        except BaseException:
            conn.close()
            raise
        return stream

    def fileno(self) -> int:
        """Return the socket, for select."""
        return self._pg.socket

    def wait(self, timeout_s: float) -> bool:
        """Wait for input at most ``timeout_s`` seconds; True when there may be some to drain."""
        self._send_due_status()
        if self._more_buffered:
            return True
        ready, _, _ = select.select([self._pg.socket], [], [], min(timeout_s, MAX_WAIT_S))
        # Also after a timeout: TLS may hold decrypted bytes that the socket does not show.
        self._consume()
        return bool(ready)

    def drain(self, handler: StreamHandler, max_messages: int) -> int:
        """Hand over what has arrived, without waiting; return the number of messages."""
        for taken in range(max_messages):
            message = self._next_message()
            if message is None:
                self._more_buffered = False
                self._send_due_status()
                return taken
            self._dispatch(handler, message)
        self._more_buffered = True
        self._send_due_status()
        return max_messages

    def confirm(self, durable_lsn: int) -> None:
        """Let the next status tell Postgres that everything before ``durable_lsn`` is safe here.

        Any thread may call. Postgres may forget the log before this position for good.
        """
        self._confirm_lsn = max(self._confirm_lsn, durable_lsn)

    @property
    def confirmed_lsn(self) -> int:
        """The last position told to Postgres in this stream, 0 before the first."""
        return self._confirmed_lsn

    def poke(self) -> None:
        """Send a status now: any input makes the walsender look at the log's end again.

        Rarely a walsender misses a wake-up and sleeps on a flushed commit until the next one.
        """
        self._send_status()

    def close(self, timeout_s: float = 2.0) -> None:
        """Tell Postgres what is confirmed, end the stream in order, close the connection."""
        try:
            self._send_status()
            self._pg.put_copy_end()
            self._flush(timeout_s)
            self._skip_rest(timeout_s)
        except (psycopg.Error, SourceUnavailable):
            pass  # The stream has ended already; the connection is closed below.
        finally:
            self._conn.close()

    def __enter__(self) -> ReplicationStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _next_message(self) -> memoryview | None:
        """Return the next message, None when nothing more has arrived."""
        while True:
            try:
                size, view = self._pg.get_copy_data(1)
            except psycopg.Error as error:
                raise source_error(error, "read the replication stream") from error
            if size > 0:
                return view
            if size < 0:
                raise self._ended()
            # One consume_input reads 16 KiB at most: loop while the socket has more.
            if not select.select([self._pg.socket], [], [], 0)[0]:
                return None
            self._consume()

    def _dispatch(self, handler: StreamHandler, message: memoryview) -> None:
        tag = message[0]
        if tag == _XLOG_TAG and len(message) > _XLOG_DATA.size:
            start, _, _ = _XLOG_DATA.unpack_from(message)
            self.received_lsn = max(self.received_lsn, start)
            handler.feed(start, message[_XLOG_DATA.size :])
        elif tag == _KEEPALIVE_TAG and len(message) >= _KEEPALIVE.size:
            wal_end, _, reply_wanted = _KEEPALIVE.unpack_from(message)
            self.received_lsn = max(self.received_lsn, wal_end)
            self._reply_wanted |= bool(reply_wanted)
            handler.keepalive(wal_end)
        else:
            raise DecodeError("replication message", 0, "neither XLogData nor a keepalive")

    def _send_due_status(self) -> None:
        due = time.monotonic() - self._last_status_s > STATUS_INTERVAL_S
        if due or self._reply_wanted or self._confirm_lsn > self._confirmed_lsn:
            self._send_status()

    def _send_status(self) -> None:
        """Send a status with flush = 0, after one with the durable LSN when that has moved."""
        confirm = self._confirm_lsn
        positions = [confirm, 0] if confirm > self._confirmed_lsn else [0]
        now_us = time.time_ns() // 1_000 - _POSTGRES_EPOCH_US
        with translated("answer the replication stream"):
            for flush in positions:
                written = max(self.received_lsn, flush)
                status = _STATUS.pack(b"r", written, flush, flush, now_us, 0)
                while self._pg.put_copy_data(status) == 0:
                    self._flush(_SEND_TIMEOUT_S)
            self._flush(_SEND_TIMEOUT_S)
        self._confirmed_lsn = max(self._confirmed_lsn, confirm)
        self._last_status_s = time.monotonic()
        self._reply_wanted = False

    def _flush(self, timeout_s: float) -> None:
        """Write out what libpq holds, reading meanwhile: both directions may be full."""
        deadline = time.monotonic() + timeout_s
        while self._pg.flush():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise SourceUnavailable("the replication stream takes no answers")
            socket = self._pg.socket
            if select.select([socket], [socket], [], left_s)[0]:
                self._consume()
                self._more_buffered = True

    def _consume(self) -> None:
        with translated("read the replication stream"):
            self._pg.consume_input()

    def _ended(self) -> Exception:
        """Return the error that the end of the stream stands for; libpq does not raise it."""
        try:
            for result in iter(self._pg.get_result, None):
                raise_for_result(result)
        except psycopg.Error as error:
            return source_error(error, "read the replication stream", _RESYNC_STATES)
        return SourceUnavailable("the source ended the replication stream")

    def _skip_rest(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            size, _ = self._pg.get_copy_data(1)
            if size < 0:
                return
            if size == 0 and select.select([self._pg.socket], [], [], left_s)[0]:
                self._pg.consume_input()


def start_command(server_version: int, slot: str, publication: str, start_lsn: int) -> sql.Composed:
    """Return the START_REPLICATION command: binary values, streamed transactions, messages."""
    protocol = 4 if server_version >= 16_00_00 else 3 if server_version >= 15_00_00 else 2
    # Publication names are identifiers inside a string literal.
    quoted = '"' + publication.replace('"', '""') + '"'
    return sql.SQL(
        "START_REPLICATION SLOT {} LOGICAL {} (proto_version '{}', publication_names {}, "
        "binary 'true', messages 'true', streaming 'on')"
    ).format(
        sql.Identifier(slot),
        sql.SQL(format_lsn(start_lsn)),
        sql.SQL(str(protocol)),
        sql.Literal(quoted),
    )


def _start(
    conn: psycopg.Connection[TupleRow],
    slot: str,
    command: sql.Composed,
    stop: threading.Event,
    busy_retry_s: float,
) -> None:
    deadline = time.monotonic() + busy_retry_s
    attempt = 0
    with translated(f"stream from replication slot {slot}", _RESYNC_STATES):
        while True:
            try:
                conn.execute(command)
                return
            except errors.ObjectInUse:
                attempt += 1
                if time.monotonic() > deadline or stop.wait(min(0.1 * attempt, 1.0)):
                    raise
