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
#: The lengths of short values, which most are.
_SIZES = tuple(_I4.pack(size) for size in range(256))


def writers_of(columns: Sequence[Column], formats: Sequence[int]) -> tuple[Writer, ...]:
    """Return what writes a value of each column; ``formats``: 0 text, 1 binary."""
    return tuple(_writer(column.oid, form) for column, form in zip(columns, formats, strict=True))


def data_rows(rows: Sequence[tuple[object, ...]], writers: Sequence[Writer]) -> bytes:
    """Return the DataRow messages of ``rows``, one after the other.

    Column by column: a join over a cursor takes thousands of rows, and a value costs a microsecond.
    """
    if not writers:
        return _DATA_ROW.pack(b"D", 6, 0) * len(rows)
    columns = [
        _fields(values, write)
        for values, write in zip(zip(*rows, strict=True), writers, strict=True)
    ]
    head, n_columns = _DATA_ROW.pack, len(writers)
    bodies = map(b"".join, zip(*columns, strict=True))
    return b"".join([head(b"D", len(body) + 6, n_columns) + body for body in bodies])


def _fields(values: Iterable[object], write: Writer) -> list[bytes]:
    """Return values as they stand in a row: their length and their bytes."""
    raws = [None if value is None else write(value) for value in values]
    return [
        _NULL if raw is None else (_SIZES[len(raw)] if len(raw) < 256 else _I4.pack(len(raw))) + raw
        for raw in raws
    ]


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
