"""What the server says: each function returns one message, ready to be sent.

Source: Postgres documentation, "Message Formats". Numbers are big-endian; a length counts itself
and not the byte of the kind before it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Literal

from server.sql.answers import Column, TransactionStatus
from server.sql.errors import SqlError
from server.sql.types import type_of

Severity = Literal["ERROR", "FATAL", "NOTICE"]

_HEAD = struct.Struct("!ci")
_I4 = struct.Struct("!i")
_U2 = struct.Struct("!H")
_FIELD = struct.Struct("!IhIhih")

PARSE_COMPLETE = b"1\0\0\0\4"
BIND_COMPLETE = b"2\0\0\0\4"
CLOSE_COMPLETE = b"3\0\0\0\4"
EMPTY_QUERY = b"I\0\0\0\4"
NO_DATA = b"n\0\0\0\4"
PORTAL_SUSPENDED = b"s\0\0\0\4"
AUTHENTICATION_OK = b"R\0\0\0\x08\0\0\0\0"
READY: dict[TransactionStatus, bytes] = {
    status: b"Z\0\0\0\5" + status.encode() for status in ("I", "T", "E")
}

_SASL, _SASL_CONTINUE, _SASL_FINAL = 10, 11, 12


def message(kind: bytes, body: bytes) -> bytes:
    """Return a message of ``kind``, one byte."""
    return _HEAD.pack(kind, len(body) + 4) + body


def sasl(mechanisms: Iterable[str]) -> bytes:
    """Ask the client to prove that it has the password, by one of ``mechanisms``."""
    names = b"".join([_string(name) for name in mechanisms])
    return message(b"R", _I4.pack(_SASL) + names + b"\0")


def sasl_continue(data: bytes) -> bytes:
    """Return AuthenticationSASLContinue."""
    return message(b"R", _I4.pack(_SASL_CONTINUE) + data)


def sasl_final(data: bytes) -> bytes:
    """Return AuthenticationSASLFinal."""
    return message(b"R", _I4.pack(_SASL_FINAL) + data)


def parameter_status(name: str, value: str) -> bytes:
    """Tell the client a setting of the session."""
    return message(b"S", _string(name) + _string(value))


def backend_key_data(process_id: int, key: bytes) -> bytes:
    """Tell the client what a CancelRequest must show."""
    return message(b"K", _I4.pack(process_id) + key)


def negotiate_protocol_version(version: int, options: Sequence[str]) -> bytes:
    """Offer ``version`` (major << 16 | minor); ``options`` are those of the client not known."""
    names = b"".join([_string(option) for option in options])
    return message(b"v", struct.pack("!II", version, len(options)) + names)


def parameter_description(oids: Sequence[int]) -> bytes:
    """Tell the types of a statement's parameters."""
    return message(b"t", struct.pack(f"!H{len(oids)}I", len(oids), *oids))


def row_description(columns: Sequence[Column], formats: Sequence[int]) -> bytes:
    """Tell the columns of the rows to come; ``formats``: 0 text, 1 binary, one for each column."""
    parts = [_U2.pack(len(columns))]
    for column, form in zip(columns, formats, strict=True):
        known = type_of(column.oid)
        size = -1 if known is None else known.size
        parts.append(_string(column.name))
        parts.append(_FIELD.pack(0, 0, column.oid, size, column.typmod, form))
    return message(b"T", b"".join(parts))


def command_complete(tag: str) -> bytes:
    """Say that a statement has been run."""
    return message(b"C", _string(tag))


def error_response(error: SqlError) -> bytes:
    """Return ErrorResponse; severity FATAL announces the end of the connection."""
    return message(b"E", _fields(error, "FATAL" if error.fatal else "ERROR"))


def notice_response(text: str) -> bytes:
    """Return NoticeResponse: something the user should know that is no error."""
    return message(b"N", _fields(SqlError("00000", text), "NOTICE"))


def _fields(error: SqlError, severity: Severity) -> bytes:
    fields = [("S", severity), ("V", severity), ("C", error.sqlstate), ("M", error.message)]
    optional = [("D", error.detail), ("H", error.hint)]
    fields += [(kind, text) for kind, text in optional if text]
    if error.position is not None:
        fields.append(("P", str(error.position)))
    return b"".join([kind.encode() + _string(text) for kind, text in fields]) + b"\0"


def _string(text: str) -> bytes:
    """Return a C string; what cannot be in one is left out."""
    return text.replace("\0", "").encode(errors="replace") + b"\0"
