"""Bytes in, messages out: where a message begins and ends, and how long it may be.

Invariants:

- However the bytes are split, the messages are the same.
- A message that is too long is refused by its header; its body is never held.
- Before login a message has at most ``STARTUP_BYTES``: a stranger can make nobody hold more.
"""

from __future__ import annotations

import struct

from server.sql.errors import SqlError

#: Longest startup packet (MAX_STARTUP_PACKET_LENGTH of libpq/pqcomm.h) and answer to a password
#: request (PG_MAX_SASL_MESSAGE_LENGTH is 1,024, passwords may take more).
STARTUP_BYTES = 10_000
#: Longest message of the kinds that carry names only (PQ_SMALL_MESSAGE_LIMIT of libpq/libpq.h).
SMALL_BYTES = 10_000

_LONG_KINDS = frozenset(b"QPBFd")
_KINDS = frozenset(b"QPBDECHSXFdcfp")

_U4 = struct.Struct("!I")
#: Consumed bytes that may stay at the front of the buffer before it is moved.
_SLACK_BYTES = 1 << 16


def protocol_violation(message: str) -> SqlError:
    """Return the error after which nothing the client sends can be trusted."""
    return SqlError("08P01", message, fatal=True)


class Inbox:
    """What has arrived and was not read yet. ``max_message_bytes``: longest body after login."""

    def __init__(self, max_message_bytes: int) -> None:
        self._max_bytes = max_message_bytes
        self._buffer = bytearray()
        self._at = 0
        self.logged_in = False

    def __len__(self) -> int:
        """Return the number of bytes not read yet."""
        return len(self._buffer) - self._at

    def feed(self, data: bytes) -> None:
        """Take bytes that arrived."""
        self._buffer += data

    def startup_packet(self) -> bytes | None:
        """Return the next packet without a kind, its length left out; None until it is whole."""
        if len(self) < 4:
            return None
        (size,) = _U4.unpack_from(self._buffer, self._at)
        if not 8 <= size <= STARTUP_BYTES:
            raise protocol_violation("invalid length of startup packet")
        return self._take(4, size) if len(self) >= size else None

    def message(self) -> tuple[int, bytes] | None:
        """Return the kind and the body of the next message; None until it is whole."""
        buffer, at = self._buffer, self._at
        available = len(buffer) - at
        if available < 5:
            if available:
                self._check_kind(buffer[at])
            return None
        kind = buffer[at]
        size = int.from_bytes(buffer[at + 1 : at + 5], "big") + 1
        if size > SMALL_BYTES or size < 5 or kind not in _KINDS or not self.logged_in:
            self._check(kind, size)
        if available < size:
            return None
        return kind, self._take(5, size)

    def _take(self, head: int, size: int) -> bytes:
        start, end = self._at + head, self._at + size
        with memoryview(self._buffer) as view:
            body = bytes(view[start:end])
        if end == len(self._buffer):
            self._buffer = bytearray() if end > _SLACK_BYTES else self._buffer
            self._buffer.clear()
            self._at = 0
        elif end > _SLACK_BYTES:
            del self._buffer[:end]
            self._at = 0
        else:
            self._at = end
        return body

    def _check_kind(self, kind: int) -> None:
        if kind not in _KINDS:
            raise protocol_violation(f"invalid frontend message type {kind}")

    def _check(self, kind: int, size: int) -> None:
        """Raise for a header that nothing good can follow."""
        self._check_kind(kind)
        if size < 5:
            raise protocol_violation("invalid message length")
        limit = self._max_bytes if kind in _LONG_KINDS else SMALL_BYTES
        if not self.logged_in:
            limit = STARTUP_BYTES
        if size > limit + 5:
            raise SqlError(
                "54000",
                f"a message of {size - 5} bytes is longer than the {limit} bytes allowed",
                hint="raise sql.max_message_bytes" if kind in _LONG_KINDS else None,
                fatal=True,
            )
