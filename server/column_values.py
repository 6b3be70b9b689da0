"""Mirrored values as plain Python values that JSON can say.

Times become Postgres' ISO text in UTC (``2026-01-31T12:00:00.5Z``), with ``infinity`` and
``-infinity``; uuids become text. Floats stay as they are; what JSON lacks (NaN, infinities) becomes
null when it is written.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from .columns import ColumnView

_EPOCH = date(2000, 1, 1)
_MICROSECONDS_A_DAY = 86_400_000_000
#: date.max in days since 2000-01-01; Postgres knows later (and earlier) days, Python does not.
_LAST_DAY, _FIRST_DAY = (date.max - _EPOCH).days, (date.min - _EPOCH).days
#: Postgres' infinities are the extreme integers of each type (src/include/datatype/timestamp.h).
_INFINITIES = {2**63 - 1: "infinity", -(2**63): "-infinity"}
_DATE_INFINITIES = {2**31 - 1: "infinity", -(2**31): "-infinity"}


def column_values(view: ColumnView) -> list[Any]:
    """Return one value for each row of ``view``; None for NULL, a list for an array."""
    arrow = view.to_arrow()
    values: list[Any] = arrow.to_pylist()
    convert = {
        "uuid": _uuid,
        "timestamptz": lambda at: _timestamp(at, "Z"),
        "timestamp": lambda at: _timestamp(at, ""),
        "date": _date,
    }.get(view.type)
    if convert is None:
        return values
    return [None if value is None else convert(value) for value in values]


def _uuid(raw: bytes) -> str:
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _date(days: int) -> str:
    return _DATE_INFINITIES.get(days) or _day(days)


def _timestamp(microseconds: int, zone: str) -> str:
    if microseconds in _INFINITIES:
        return _INFINITIES[microseconds]
    days, rest = divmod(microseconds, _MICROSECONDS_A_DAY)
    seconds, fraction = divmod(rest, 1_000_000)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{_day(days)}T{clock}{f'.{fraction:06}'.rstrip('0') if fraction else ''}{zone}"


def _day(days: int) -> str:
    """Return a day since 2000-01-01 in ISO 8601; years beyond 9999 and before 1 as Postgres does.

    The Gregorian calendar repeats every 400 years of 146,097 days, which brings any day into the
    range of ``datetime.date``.
    """
    cycles = 0
    if not _FIRST_DAY <= days <= _LAST_DAY:
        cycles, days = divmod(days, 146_097)
    day = _EPOCH + timedelta(days=days)
    year = day.year + 400 * cycles
    if year > 0:
        return f"{year:04}-{day:%m-%d}"
    return f"{1 - year:04}-{day:%m-%d} BC"
