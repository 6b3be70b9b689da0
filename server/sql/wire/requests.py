"""What the client asks: bodies of its messages to values. All raise SqlError 08P01 or 22021.

Source: Postgres documentation, "Message Formats".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from server.sql.errors import SqlError

from .text_forms import text_of

#: Codes in place of a version in a startup packet.
_CANCEL, _SSL, _GSSENC = 80877102, 80877103, 80877104
#: Longest cancel key of protocol 3.2.
_MAX_KEY_BYTES = 256

_U4 = struct.Struct("!I")
_I4 = struct.Struct("!i")
_U2 = struct.Struct("!H")


@dataclass(frozen=True, slots=True)
class EncryptionRequest:
    """The client wants to go on encrypted, by TLS or by GSSAPI."""

    gssapi: bool


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Somebody wants a statement of another connection to end."""

    process_id: int
    key: bytes


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """The client names the protocol's version, itself and what it wants.

    Parameters whose names begin with ``_pq_.`` are options of the protocol.
    """

    major: int
    minor: int
    parameters: dict[str, str]

    @property
    def options(self) -> list[str]:
        """Names of the protocol options asked for."""
        return [name for name in self.parameters if name.startswith("_pq_.")]


@dataclass(frozen=True, slots=True)
class Parse:
    """Prepare a statement. ``oids``: parameter types that are fixed, 0 for any."""

    name: str
    text: str
    oids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bind:
    """Make a portal of a statement. Formats: none (all text), one for all, or one each."""

    portal: str
    statement: str
    formats: tuple[int, ...]
    values: list[bytes | None]
    result_formats: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """A prepared statement or a portal: what Describe and Close are about."""

    is_statement: bool
    name: str


@dataclass(frozen=True, slots=True)
class Execute:
    """Run a portal. ``max_rows`` 0: all."""

    portal: str
    max_rows: int


def startup(packet: bytes) -> EncryptionRequest | CancelRequest | StartupMessage:
    """Read a packet of a connection that has not said its version yet."""
    (code,) = _U4.unpack_from(packet)
    if code in (_SSL, _GSSENC):
        return EncryptionRequest(code == _GSSENC)
    if code == _CANCEL:
        if not 4 <= len(packet) - 8 <= _MAX_KEY_BYTES:
            raise _malformed()
        (process_id,) = _I4.unpack_from(packet, 4)
        return CancelRequest(process_id, packet[8:])
    return StartupMessage(code >> 16, code & 0xFFFF, _parameters(packet[4:], code >> 16))


def _parameters(raw: bytes, major: int) -> dict[str, str]:
    """Read names and values, each ended by 0, and a last 0."""
    if major != 3:
        return {}
    words = raw.split(b"\0")
    if len(words) < 2 or words[-1] or words[-2] or len(words) % 2:
        raise SqlError("08P01", "invalid startup packet layout", fatal=True)
    texts = [text_of(word) for word in words[:-2]]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def sasl_initial(body: bytes) -> tuple[str, bytes]:
    """Read the mechanism that the client chose, and what it says first."""
    name, at = _name(body, 0)
    if len(body) < at + 4:
        raise _malformed()
    (size,) = _I4.unpack_from(body, at)
    if size != len(body) - at - 4:
        raise _malformed()
    return name, body[at + 4 :]


def query(body: bytes) -> str:
    """Read the text of a simple query."""
    text, at = _name(body, 0)
    _check_end(body, at)
    return text


def parse(body: bytes) -> Parse:
    """Read Parse."""
    name, at = _name(body, 0)
    text, at = _name(body, at)
    count, at = _count(body, at)
    _check_end(body, at + 4 * count)
    return Parse(name, text, struct.unpack_from(f"!{count}I", body, at))


def bind(body: bytes) -> Bind:
    """Read Bind; the values stay bytes."""
    portal, at = _name(body, 0)
    statement, at = _name(body, at)
    formats, at = _formats(body, at)
    count, at = _count(body, at)
    values: list[bytes | None] = []
    end = len(body)
    for _ in range(count):
        if end - at < 4:
            raise _malformed()
        (size,) = _I4.unpack_from(body, at)
        at += 4
        if size == -1:
            values.append(None)
            continue
        if not 0 <= size <= end - at:
            raise _malformed()
        values.append(body[at : at + size])
        at += size
    result_formats, at = _formats(body, at)
    _check_end(body, at)
    return Bind(portal, statement, formats, values, result_formats)


def target(body: bytes) -> Target:
    """Read Describe or Close."""
    if body[:1] not in (b"S", b"P"):
        raise _malformed()
    name, at = _name(body, 1)
    _check_end(body, at)
    return Target(body[:1] == b"S", name)


def execute(body: bytes) -> Execute:
    """Read Execute. A negative number of rows means all, as in Postgres."""
    portal, at = _name(body, 0)
    _check_end(body, at + 4)
    return Execute(portal, max(0, _I4.unpack_from(body, at)[0]))


def spread(formats: Sequence[int], count: int) -> tuple[int, ...]:
    """Return one format for each of ``count`` values."""
    if not formats:
        return (0,) * count
    if len(formats) == 1:
        return (formats[0],) * count
    if len(formats) != count:
        message = f"bind message has {len(formats)} formats for {count} values"
        raise SqlError("08P01", message)
    return tuple(formats)


def _name(body: bytes, at: int) -> tuple[str, int]:
    """Return a C string and where it ends."""
    end = body.find(b"\0", at)
    if end < 0:
        raise _malformed()
    return text_of(body[at:end]), end + 1


def _count(body: bytes, at: int) -> tuple[int, int]:
    if len(body) < at + 2:
        raise _malformed()
    (count,) = _U2.unpack_from(body, at)
    return count, at + 2


def _formats(body: bytes, at: int) -> tuple[tuple[int, ...], int]:
    count, at = _count(body, at)
    if len(body) < at + 2 * count:
        raise _malformed()
    formats = struct.unpack_from(f"!{count}H", body, at)
    if formats and max(formats) > 1:
        raise SqlError("22023", "a format code is neither 0 (text) nor 1 (binary)")
    return formats, at + 2 * count


def _check_end(body: bytes, at: int) -> None:
    if at != len(body):
        raise _malformed()


def _malformed() -> SqlError:
    return SqlError("08P01", "invalid message format")
