"""Casts between types, value by value, with Postgres' rounding and range errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import exact, moments
from .compare import decimals, ticks
from .errors import DATETIME_OVERFLOW, FEATURE_NOT_SUPPORTED, OUT_OF_RANGE
from .guard import Guard
from .literals import float4_from_text, from_text
from .sqltypes import DTYPES, FLOATS, INTEGER_BOUNDS, INTEGERS, MOMENTS, element_of, spoken
from .values import Arrays, Values, Vector, sequence, text

#: Digits that Postgres keeps of a float that becomes numeric (FLT_DIG and DBL_DIG).
_FLOAT_DIGITS = {"float4": 6, "float8": 15}


def cast(guard: Guard, vector: Vector, target: str) -> Vector:
    """Return ``vector`` as ``target``, whatever is NULL; ``casts_explicitly`` allows it."""
    if isinstance(vector, Arrays):
        inner = Guard(guard.position, _item_rows(guard, vector), vector.items.null)
        items = _cast(inner, vector.items, element_of(target))
        items = Values(items.type, items.data, vector.items.null, items.words)
        return Arrays(target, items, vector.offsets, vector.null)
    return _cast(guard, vector, target)


def _item_rows(guard: Guard, vector: Arrays) -> NDArray[np.bool_]:
    return guard.counting(vector.rows)[vector.owners()]


def _cast(guard: Guard, values: Values, target: str) -> Values:  # noqa: PLR0911 - one per kind
    if values.type == target:
        return values
    if target == "text":
        return _to_text(values)
    if values.type == "text":
        return _from_text(guard, values, target)
    if target in INTEGERS:
        return _to_integer(guard, values, target)
    if target in FLOATS:
        return _to_float(guard, values, target)
    if target == "numeric":
        return _to_numeric(guard, values)
    if target in MOMENTS:
        return _to_moment(guard, values, target)
    return Values("bool", values.data != 0)


def _to_integer(guard: Guard, values: Values, target: str) -> Values:
    bound, source = INTEGER_BOUNDS[target], values.data
    if values.type == "numeric":
        return _numeric_to_integer(guard, values, target)
    if values.type in FLOATS:
        # Halves go to the even side, as rint() does; the bound is exact in both float types.
        source = np.rint(source)
    bad = ~((source >= -bound) & (source < bound)) if values.type != "bool" else np.zeros(1, bool)
    guard.check(bad, f"{spoken(target)} out of range", OUT_OF_RANGE)
    kept = np.where(bad, 0, source) if bad.any() else source
    return Values(target, kept.astype(DTYPES[target]))


def _numeric_to_integer(guard: Guard, values: Values, target: str) -> Values:
    bound = INTEGER_BOUNDS[target]
    rounded = [exact.round_half_away(word) for word in values.vocabulary]
    bad = np.array([not -bound <= value < bound for value in rounded], np.bool_)
    guard.check(bad[values.data], f"{spoken(target)} out of range", OUT_OF_RANGE)
    kept = [value if -bound <= value < bound else 0 for value in rounded]
    return Values(target, np.array(kept, DTYPES[target])[values.data])


def _to_float(guard: Guard, values: Values, target: str) -> Values:
    if values.type == "numeric":
        return _numeric_to_float(guard, values, target)
    with np.errstate(all="ignore"):
        result = values.data.astype(DTYPES[target])
    if values.type == "float8":
        overflow = np.isinf(result) & ~np.isinf(values.data)
        underflow = (result == 0) & (values.data != 0)
        guard.check(overflow | underflow, "value out of range for type real", OUT_OF_RANGE)
    return Values(target, result)


def _to_numeric(guard: Guard, values: Values) -> Values:
    if values.type in INTEGERS:
        return decimals(values)
    digits = _FLOAT_DIGITS[values.type]
    bad = ~np.isfinite(values.data)
    message = "numeric has no NaN or infinity here"
    guard.check(bad, message, FEATURE_NOT_SUPPORTED)
    unique, codes = np.unique(np.where(bad, 0, values.data), return_inverse=True)
    shown = [f"{float(value):.{digits}g}" for value in unique]
    words = [exact.check_numeric(Decimal(number), guard.position) for number in shown]
    return Values("numeric", codes.astype(np.int32), None, words)


def _to_moment(guard: Guard, values: Values, target: str) -> Values:
    if target != "date":
        result = ticks(values)
        beyond = np.zeros(1, np.bool_)
        if values.type == "date":
            beyond = result == moments.TIMESTAMP_INFINITY - 1
        guard.check(beyond, "date out of range for timestamp", DATETIME_OVERFLOW)
        return Values(target, result)
    days = values.data // moments.US_PER_DAY
    days[values.data == moments.TIMESTAMP_INFINITY] = moments.DATE_INFINITY
    days[values.data == moments.TIMESTAMP_MINUS_INFINITY] = moments.DATE_MINUS_INFINITY
    return Values("date", days.astype(np.int32))


def _from_text(guard: Guard, values: Values, target: str) -> Values:
    """Read each word that a row that counts has; the first that is no ``target`` is the error."""
    counting = guard.counting(values.rows)
    used, places = np.unique(values.data[counting], return_inverse=True)
    words = values.vocabulary
    # Rows that do not count get the value at the end, a NULL: any value will do.
    found = [from_text(target, words[code], guard.position) for code in used]
    read = sequence(target, [*found, None])
    data = np.full(values.rows, len(found))
    data[counting] = places
    return Values(target, read.data[data], None, read.words)


def _numeric_to_float(guard: Guard, values: Values, target: str) -> Values:
    """Cast by way of text, as Postgres does: so the float is the nearest one."""
    read = float4_from_text if target == "float4" else _double
    counting = guard.counting(values.rows)
    table = np.zeros(len(values.vocabulary), DTYPES[target])
    for code in np.unique(values.data[counting]).tolist():
        table[code] = read(str(values.vocabulary[code]), guard.position)
    return Values(target, table[values.data])


def _double(word: str, position: int) -> float:
    value = from_text("float8", word, position)
    assert isinstance(value, float)
    return value


def _to_text(values: Values) -> Values:
    write = _WRITERS[values.type]
    if values.type == "numeric":
        return text(values.data, [write(word) for word in values.vocabulary])
    # By their bits, because -0 equals 0 but is written as -0.
    bits = values.data.view(f"i{values.data.itemsize}") if values.type in FLOATS else values.data
    unique, codes = np.unique(bits, return_inverse=True)
    return text(codes, [write(value) for value in unique.view(values.data.dtype).tolist()])


def float_to_text(value: float, *, digits: str, fixed_below: int) -> str:
    """Return a float in its shortest form: ``digits`` is its repr (common/d2s.c, f2s.c)."""
    if not math.isfinite(value):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    sign, figures, exponent = Decimal(digits).normalize().as_tuple()
    assert isinstance(exponent, int)
    if not value:
        return "-0" if sign else "0"
    shown, top = "".join(map(str, figures)), len(figures) + exponent - 1
    if -4 <= top < fixed_below:
        body = format(Decimal((0, figures, exponent)), "f")
    else:
        mantissa = shown[0] + ("." + shown[1:] if len(shown) > 1 else "")
        body = f"{mantissa}e{'-' if top < 0 else '+'}{abs(top):02d}"
    return ("-" if sign else "") + body


def _float4_text(value: float) -> str:
    return float_to_text(value, digits=str(np.float32(value)), fixed_below=6)


def _uuid_text(raw: bytes) -> str:
    shown = raw.ljust(16, b"\0").hex()
    return "-".join((shown[:8], shown[8:12], shown[12:16], shown[16:20], shown[20:]))


_WRITERS: dict[str, Callable[[Any], str]] = {
    "bool": lambda value: "true" if value else "false",
    **dict.fromkeys(INTEGERS, str),
    "numeric": lambda value: format(value, "f"),
    "float4": _float4_text,
    "float8": lambda value: float_to_text(value, digits=repr(value), fixed_below=15),
    "date": moments.date_to_text,
    "timestamp": lambda value: moments.timestamp_to_text(value, with_zone=False),
    "timestamptz": lambda value: moments.timestamp_to_text(value, with_zone=True),
    "uuid": _uuid_text,
}
