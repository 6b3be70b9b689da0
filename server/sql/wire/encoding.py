"""Rows to DataRow messages, and the parameters of Bind to Python values."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from server.sql.answers import Column
from server.sql.errors import SqlError
from server.sql.types import type_of

Writer = Callable[[Any], bytes]

_I4 = struct.Struct("!i")
_DATA_ROW = struct.Struct("!ciH")
_NULL = b"\xff\xff\xff\xff"


def writers_of(columns: Sequence[Column], formats: Sequence[int]) -> tuple[Writer, ...]:
    """Return what writes a value of each column; ``formats``: 0 text, 1 binary."""
    return tuple(_writer(column.oid, form) for column, form in zip(columns, formats, strict=True))


def data_rows(rows: Iterable[tuple[object, ...]], writers: Sequence[Writer]) -> bytes:
    """Return the DataRow messages of ``rows``, one after the other."""
    parts: list[bytes] = []
    pack, head, n_columns = _I4.pack, _DATA_ROW.pack, len(writers)
    for row in rows:
        fields: list[bytes] = []
        for write, value in zip(writers, row, strict=True):
            if value is None:
                fields.append(_NULL)
            else:
                raw = write(value)
                fields += (pack(len(raw)), raw)
        body = b"".join(fields)
        parts += (head(b"D", len(body) + 6, n_columns), body)
    return b"".join(parts)


def parameters_of(
    values: Sequence[bytes | None], formats: Sequence[int], oids: Sequence[int]
) -> tuple[object, ...]:
    """Return the Python values of parameters; raise SqlError for those that are none."""
    return tuple(
        None if raw is None else _read(number, raw, form, oid)
        for number, (raw, form, oid) in enumerate(zip(values, formats, oids, strict=True), 1)
    )


def _read(number: int, raw: bytes, form: int, oid: int) -> object:
    known = type_of(oid)
    if known is None:
        raise _unknown(oid)
    try:
        value: object = (known.read_binary if form else known.read_text)(raw)
    except SqlError as error:
        error.detail = f"Parameter ${number}."
        raise
    return value


def _writer(oid: int, form: int) -> Writer:
    known = type_of(oid)
    if known is None:
        raise _unknown(oid)
    return known.write_binary if form else known.write_text


def _unknown(oid: int) -> SqlError:
    hint = "cast it to text, or to a type of the index's columns"
    return SqlError("0A000", f"values of the type with OID {oid} cannot be sent here", hint=hint)
