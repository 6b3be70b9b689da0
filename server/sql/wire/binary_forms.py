"""Values as bytes, as Postgres' send functions write them and its receive functions read them.

Everything is big-endian. Readers raise SqlError 22P03; no message repeats the value.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np

from server.filters.literals import MAX_ARRAY_ITEMS
from server.sql.errors import SqlError

INVALID_BINARY = "22P03"

_F4 = struct.Struct("!f")
_I4 = struct.Struct("!i")
_ARRAY_HEADER = struct.Struct("!iiIii")
_EMPTY_HEADER = struct.Struct("!iiI")
_NUMERIC_HEADER = struct.Struct("!hhHH")
#: Signs of numeric (utils/adt/numeric.c); the three values that are no number are refused.
_POSITIVE, _NEGATIVE = 0x0000, 0x4000
#: Length of NULL.
_NULL = b"\xff\xff\xff\xff"


def broken(name: str) -> SqlError:
    """Return the error for bytes that are no value of the type."""
    return SqlError(INVALID_BINARY, f"incorrect binary data format for type {name}")


def packed_reader(name: str, code: str) -> Callable[[bytes], Any]:
    """Return the reader of a number of fixed size, ``code`` as in struct."""
    form = struct.Struct("!" + code)
    unpack, size = form.unpack, form.size

    def read(raw: bytes) -> Any:
        if len(raw) != size:
            raise broken(name)
        return unpack(raw)[0]

    return read


def packed_writer(code: str) -> Callable[[Any], bytes]:
    """Return the writer of a number of fixed size."""
    return struct.Struct("!" + code).pack


def write_float4(value: float) -> bytes:
    """Write a float32; what is beyond its range becomes infinite, as a cast in C does."""
    return _F4.pack(np.float32(value))


def read_bool(raw: bytes) -> bool:
    """Read one byte; anything but 0 is true."""
    if len(raw) != 1:
        raise broken("boolean")
    return raw != b"\0"


def write_bool(value: bool) -> bytes:
    """Write one byte."""
    return b"\1" if value else b"\0"


def read_uuid(raw: bytes) -> uuid.UUID:
    """Read sixteen bytes."""
    if len(raw) != 16:
        raise broken("uuid")
    return uuid.UUID(bytes=bytes(raw))


def write_uuid(value: uuid.UUID) -> bytes:
    """Write sixteen bytes."""
    return value.bytes


def read_numeric(raw: bytes) -> Decimal:
    """Read digits of base 10,000, the weight of the first, and the scale to show."""
    if len(raw) < _NUMERIC_HEADER.size:
        raise broken("numeric")
    count, weight, sign, scale = _NUMERIC_HEADER.unpack_from(raw)
    if count < 0 or len(raw) != _NUMERIC_HEADER.size + 2 * count:
        raise broken("numeric")
    if sign not in (_POSITIVE, _NEGATIVE):
        raise SqlError("0A000", "numeric has no NaN or infinity here")
    groups = np.frombuffer(raw, ">u2", count, _NUMERIC_HEADER.size)
    if count and groups.max() > 9999:
        raise broken("numeric")
    figures = "".join([f"{group:04d}" for group in groups.tolist()]) or "0"
    digits = (sign == _NEGATIVE, tuple(map(int, figures)), 4 * (weight - count + 1))
    return _with_scale(Decimal(digits if count else (0, (0,), 0)), scale)


def _with_scale(value: Decimal, scale: int) -> Decimal:
    """Return ``value`` with ``scale`` digits after the point; digits beyond are cut off."""
    sign, figures, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    moved = exponent + scale
    kept = figures + (0,) * moved if moved >= 0 else figures[:moved]
    return Decimal((sign, kept or (0,), -scale))


def write_numeric(value: Decimal) -> bytes:
    """Write a finite number with all its digits."""
    sign, figures, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    scale = max(0, -exponent)
    # Groups of four count from the point, so both ends are filled up with zeros.
    text = "".join(map(str, figures)) + "0" * (exponent % 4 if exponent < 0 else exponent)
    text = "0" * (-len(text) % 4) + text
    groups = [int(text[at : at + 4]) for at in range(0, len(text), 4)]
    weight = len(groups) - 1 + (exponent // 4 if exponent < 0 else 0)
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    shown_sign = _NEGATIVE if sign and groups else _POSITIVE
    head = _NUMERIC_HEADER.pack(len(groups), weight if groups else 0, shown_sign, scale)
    return head + struct.pack(f"!{len(groups)}H", *groups)


def array_writer(item_oid: int, write_item: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Return what writes a sequence as an array of one dimension that starts at 1."""
    empty = _EMPTY_HEADER.pack(0, 0, item_oid)

    def write(items: Any) -> bytes:
        if not len(items):
            return empty
        parts, nulls = [b""], 0
        for item in items:
            if item is None:
                parts.append(_NULL)
                nulls = 1
            else:
                raw = write_item(item)
                parts += (_I4.pack(len(raw)), raw)
        parts[0] = _ARRAY_HEADER.pack(1, nulls, item_oid, len(items), 1)
        return b"".join(parts)

    return write


def array_reader(
    name: str, item_oid: int, read_item: Callable[[bytes], Any], dtype: str | None
) -> Callable[[bytes], tuple[Any, ...]]:
    """Return the reader of an array. ``dtype``: NumPy type of items of fixed size, without NULLs.

    Sets of ids are long: those are read in one go.
    """
    fixed = None if dtype is None else np.dtype([("size", ">i4"), ("item", dtype)])

    def read(raw: bytes) -> tuple[Any, ...]:
        count = _read_header(raw, name, item_oid)
        if count and fixed and len(raw) == _ARRAY_HEADER.size + count * fixed.itemsize:
            found = np.frombuffer(raw, fixed, count, _ARRAY_HEADER.size)
            if (found["size"] == fixed["item"].itemsize).all():
                return tuple(found["item"].tolist())
        return tuple(_read_items(raw, name, count, read_item))

    return read


def _read_header(raw: bytes, name: str, item_oid: int) -> int:
    """Return the number of items."""
    if len(raw) < _EMPTY_HEADER.size:
        raise broken(name)
    dimensions, _, oid = _EMPTY_HEADER.unpack_from(raw)
    if oid != item_oid:
        raise SqlError("42804", f"the binary data is an array of another type than {name}")
    if dimensions == 0 and len(raw) == _EMPTY_HEADER.size:
        return 0
    if dimensions != 1:
        raise SqlError("0A000", "arrays have one dimension here")
    if len(raw) < _ARRAY_HEADER.size:
        raise broken(name)
    count, start = _ARRAY_HEADER.unpack_from(raw)[3:]
    if start != 1:
        raise SqlError("0A000", "arrays start at 1 here")
    # An item takes at least its length, so that a header alone cannot ask for memory.
    if not 0 <= count <= min(MAX_ARRAY_ITEMS, (len(raw) - _ARRAY_HEADER.size) // 4):
        raise broken(name)
    return int(count)


def _read_items(raw: bytes, name: str, count: int, read_item: Callable[[bytes], Any]) -> list[Any]:
    items: list[Any] = []
    at, end = (_ARRAY_HEADER.size, len(raw)) if count else (0, 0)
    for _ in range(count):
        if end - at < 4:
            raise broken(name)
        (size,) = _I4.unpack_from(raw, at)
        at += 4
        if size == -1:
            items.append(None)
            continue
        if not 0 <= size <= end - at:
            raise broken(name)
        items.append(read_item(raw[at : at + size]))
        at += size
    if at != end:
        raise broken(name)
    return items
