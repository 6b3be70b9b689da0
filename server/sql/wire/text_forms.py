"""Values as text, as Postgres' output functions write it and its input functions read it.

Moments are Postgres' integers since 2000-01-01; the session's DateStyle is ISO, its TimeZone UTC.
Readers raise SqlError; no message repeats the value.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import orjson

from pgsync.lsn import format_lsn, parse_lsn
from server.filters import moments
from server.filters.casting import float_to_text
from server.filters.errors import FilterError
from server.filters.literals import MAX_ARRAY_ITEMS, from_text
from server.sql.errors import SqlError

INVALID_TEXT, NOT_IN_REPERTOIRE, OUT_OF_RANGE = "22P02", "22021", "22003"

#: What array_out puts quotes around, and what it escapes within them.
_QUOTED = re.compile(r'[{}",\\ \t\n\r\f\v]')
_ESCAPED = re.compile(r'(["\\])')
#: Longest run of digits that any int8 fits.
_SAFE_DIGITS = 18
_INT_BYTES = b"0123456789-, "


def text_of(raw: bytes) -> str:
    """Return UTF-8 as a string that a Postgres text value can hold."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        message = 'invalid byte sequence for encoding "UTF8"'
        raise SqlError(NOT_IN_REPERTOIRE, message) from error
    if "\0" in text:
        raise SqlError(NOT_IN_REPERTOIRE, 'invalid byte sequence for encoding "UTF8": 0x00')
    return text


def literal_reader(name: str) -> Callable[[bytes], Any]:
    """Return the reader of a type that filters know as ``name``."""

    def read(raw: bytes) -> Any:
        try:
            return from_text(name, text_of(raw), 0)
        except FilterError as error:
            raise SqlError(error.sqlstate, error.message, hint=error.hint) from error

    return read


def integer_reader(name: str) -> Callable[[bytes], int]:
    """Return the reader of an integer type."""
    slow, bound = literal_reader(name), {"int2": 2**15, "int4": 2**31, "int8": 2**63}[name]

    def read(raw: bytes) -> int:
        if len(raw) <= _SAFE_DIGITS and raw.isdigit():
            value = int(raw)
            if value < bound:
                return value
        return int(slow(raw))

    return read


def read_oid(raw: bytes) -> int:
    """Read an oid: 32 bits without a sign; a negative number wraps around."""
    value = int(_read_int8(raw))
    if not -(2**31) <= value < 2**32:
        raise SqlError(OUT_OF_RANGE, "value is out of range for type oid")
    return value % 2**32


_read_int8 = literal_reader("int8")


def read_uuid(raw: bytes) -> uuid.UUID:
    """Read a uuid in any form that Postgres takes."""
    return uuid.UUID(bytes=_read_uuid_bytes(raw))


_read_uuid_bytes = literal_reader("uuid")


def read_lsn(raw: bytes) -> int:
    """Read ``16/B374D848``; Postgres allows no blanks around it."""
    text = text_of(raw)
    try:
        if text != text.strip():
            raise ValueError("blanks")
        return parse_lsn(text)
    except ValueError as error:
        message = "invalid input syntax for type pg_lsn"
        raise SqlError(INVALID_TEXT, message, hint="write 16/B374D848") from error


def write_bool(value: bool) -> bytes:
    """Write t or f."""
    return b"t" if value else b"f"


def write_int(value: int) -> bytes:
    """Write an integer of any size."""
    return b"%d" % value


def write_text(value: str) -> bytes:
    """Write a string."""
    return value.encode()


def write_float8(value: float) -> bytes:
    """Write the shortest number that reads back as ``value``; an exponent from 1e+15 on."""
    digits = repr(float(value))
    if "e" not in digits and -1e15 < value < 1e15:  # written alike; NaN is not between
        return (digits[:-2] if digits.endswith(".0") else digits).encode()
    if digits.endswith(".0"):
        digits = digits[:-2]
    if (len(digits) > 15 and "e" not in digits) or not digits[-1].isdigit():
        digits = float_to_text(value, digits=repr(float(value)), fixed_below=15)
    elif "e+" in digits and _is_half_way(digits, value, math.ulp(value)):
        digits = float_to_text(value, digits=_inside(value, math.ulp(value), 17), fixed_below=15)
    return digits.encode()


def write_float4(value: float) -> bytes:
    """Write the shortest number that reads back as the float32 ``value``."""
    value, digits = float(value), str(np.float32(value))
    if 2**24 <= abs(value) < math.inf:
        ulp = math.ldexp(1.0, math.frexp(value)[1] - 24)
        digits = _inside(value, ulp, 9) if _is_half_way(digits, value, ulp) else digits
    return float_to_text(value, digits=digits, fixed_below=6).encode()


def _is_half_way(digits: str, value: float, ulp: float) -> bool:
    """Whether a number lies half-way to the next float: Postgres (d2s.c) takes none such.

    Below a power of two the next float is half as far. Only large numbers can be so short.
    """
    distance = 2 * (abs(int(Decimal(digits))) - abs(int(value)))
    below = math.frexp(abs(value))[0] == 0.5 and -2 * distance == ulp
    return abs(distance) == ulp or below


def _inside(value: float, ulp: float, most: int) -> str:
    """Return the shortest number less than half-way to the next floats; ``most`` digits will do."""
    for places in range(most):
        digits = f"{value:.{places}e}"
        distance = 2 * (abs(int(Decimal(digits))) - abs(int(value)))
        below = ulp / 2 if math.frexp(abs(value))[0] == 0.5 else ulp
        if -below < distance < ulp:
            break
    return digits


def write_numeric(value: Decimal) -> bytes:
    """Write all digits, without an exponent; there is no minus zero."""
    return format(value or abs(value), "f").encode()


def write_uuid(value: uuid.UUID) -> bytes:
    """Write the form with hyphens."""
    return str(value).encode()


def write_lsn(value: int) -> bytes:
    """Write ``16/B374D848``."""
    return format_lsn(value).encode()


def write_date(value: int) -> bytes:
    """Write days since 2000-01-01."""
    return moments.date_to_text(value).encode()


def write_timestamp(value: int) -> bytes:
    """Write microseconds since 2000-01-01, local."""
    return moments.timestamp_to_text(value, with_zone=False).encode()


def write_timestamptz(value: int) -> bytes:
    """Write microseconds since 2000-01-01 UTC."""
    return moments.timestamp_to_text(value, with_zone=True).encode()


def write_void(value: object) -> bytes:
    """Write nothing: void has no values."""
    return b""


def array_writer(write_item: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Return what writes a sequence as ``{1,NULL,"a b"}``."""

    def write(items: Any) -> bytes:
        return b"{" + b",".join([_item(write_item, item) for item in items]) + b"}"

    return write


def _item(write_item: Callable[[Any], bytes], item: object) -> bytes:
    if item is None:
        return b"NULL"
    text = write_item(item).decode()
    if not text or text.upper() == "NULL" or _QUOTED.search(text):
        text = '"' + _ESCAPED.sub(r"\\\1", text) + '"'
    return text.encode()


def array_reader(read_item: Callable[[bytes], Any]) -> Callable[[bytes], tuple[Any, ...]]:
    """Return the reader of ``{...}`` of items that ``read_item`` reads."""

    def read(raw: bytes) -> tuple[Any, ...]:
        items = _read_words(raw)
        return tuple(None if item is None else read_item(item.encode()) for item in items)

    return read


_read_words = literal_reader("text[]")


def integer_array_reader(name: str) -> Callable[[bytes], tuple[int | None, ...]]:
    """Return the reader of an array of integers: sets of ids are long, so plain ones go fast."""
    slow, bound = literal_reader(f"{name}[]"), {"int2": 2**15, "int4": 2**31, "int8": 2**63}[name]

    def read(raw: bytes) -> tuple[int | None, ...]:
        if raw.translate(None, _INT_BYTES) == b"{}" and raw[:1] == b"{" and raw[-1:] == b"}":
            try:
                items = orjson.loads(b"[" + raw[1:-1] + b"]")
            except orjson.JSONDecodeError:
                return tuple(slow(raw))
            if not items or (
                len(items) <= MAX_ARRAY_ITEMS and -bound < min(items) <= max(items) < bound
            ):
                # A float is what orjson makes of an integer beyond 64 bits: never within bounds.
                return tuple(items)
        return tuple(slow(raw))

    return read
