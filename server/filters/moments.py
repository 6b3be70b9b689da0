"""Dates and timestamps: between ISO 8601 text and Postgres' integers since 2000-01-01.

The session time zone is UTC: a timestamptz without an offset is in UTC. Named zones, relative
words (now, today) and other orders of day, month and year are refused. Years may have more than
four digits and may be followed by BC. Limits are those of Postgres' documentation, table 8.9.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from .errors import DATETIME_OVERFLOW, INVALID_DATETIME, FilterError

US_PER_SECOND = 1_000_000
US_PER_DAY = 86_400 * US_PER_SECOND

#: Infinities are the ends of the integer types (datatype/timestamp.h, utils/date.h).
TIMESTAMP_INFINITY, TIMESTAMP_MINUS_INFINITY = 2**63 - 1, -(2**63)
DATE_INFINITY, DATE_MINUS_INFINITY = 2**31 - 1, -(2**31)

#: Days since 2000-01-01 of 4714-11-24 BC, the first day of both, and of the first days beyond.
FIRST_DAY = -2_451_545
TIMESTAMP_END_DAY = 109_203_528 - 2_451_545
DATE_END_DAY = 2_147_483_494 - 2_451_545

#: Longest text of a date or timestamp (MAXDATELEN of utils/datetime.h).
MAX_CHARACTERS = 128

_EPOCH_ORDINAL = datetime.date(2000, 1, 1).toordinal()
_UNIX_EPOCH_DAY = -10_957

_DATE = r"(?P<year>\d{4,7})-(?P<month>\d{1,2})-(?P<day>\d{1,2})"
_COMPACT = r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})"
_TIME = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?P<fraction>\.\d*)?)?"
_OFFSET = r"(?P<sign>[+-])(?P<zh>\d{1,2})(?::?(?P<zm>\d{2}))?(?::?(?P<zs>\d{2}))?"
_ZONE = rf"(?P<zone>[zZ]|UTC|utc|GMT|{_OFFSET})"
_REST = rf"(?:(?:\s*[tT]|\s+){_TIME}\s*{_ZONE}?)?(?P<bc>\s+[bB][cC])?"
_FORMS = tuple(re.compile(form + _REST, re.ASCII) for form in (_DATE, _COMPACT))

_MONTH_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class _Moment:
    """``days`` since 2000-01-01, microseconds of the day, and the offset east of UTC if given."""

    days: int
    us_of_day: int
    offset_s: int | None


def date_from_text(text: str, position: int) -> int:
    """Return days since 2000-01-01; a time of day is dropped, as Postgres does."""
    special = {"infinity": DATE_INFINITY, "-infinity": DATE_MINUS_INFINITY}
    special |= {"+infinity": DATE_INFINITY, "epoch": _UNIX_EPOCH_DAY}
    word = text.strip().lower()
    if word in special:
        return special[word]
    return check_day(_parse(text, "date", position).days, position)


def timestamp_from_text(text: str, position: int, *, with_zone: bool) -> int:
    """Return microseconds since 2000-01-01 00:00 (UTC ``with_zone``; else offsets are dropped)."""
    special = {"infinity": TIMESTAMP_INFINITY, "-infinity": TIMESTAMP_MINUS_INFINITY}
    special |= {"+infinity": TIMESTAMP_INFINITY, "epoch": _UNIX_EPOCH_DAY * US_PER_DAY}
    word = text.strip().lower()
    if word in special:
        return special[word]
    moment = _parse(text, "timestamp", position)
    ticks = moment.days * US_PER_DAY + moment.us_of_day
    if with_zone:
        ticks -= (moment.offset_s or 0) * US_PER_SECOND
    return check_ticks(ticks, position)


def check_day(days: int, position: int) -> int:
    """Return ``days`` if a date can hold it."""
    if not FIRST_DAY <= days < DATE_END_DAY:
        raise FilterError("date out of range", position, DATETIME_OVERFLOW)
    return days


def check_ticks(ticks: int, position: int) -> int:
    """Return ``ticks`` (microseconds) if a timestamp can hold it."""
    if not FIRST_DAY * US_PER_DAY <= ticks < TIMESTAMP_END_DAY * US_PER_DAY:
        raise FilterError("timestamp out of range", position, DATETIME_OVERFLOW)
    return ticks


def date_from_python(value: datetime.date) -> int:
    """Return days since 2000-01-01."""
    return value.toordinal() - _EPOCH_ORDINAL


def timestamp_from_python(value: datetime.datetime, *, with_zone: bool) -> int:
    """Return microseconds since 2000-01-01 00:00; without an offset the value is in UTC."""
    offset = value.utcoffset() if with_zone else None
    naive = value.replace(tzinfo=None)
    elapsed = naive - datetime.datetime(2000, 1, 1)
    ticks = (elapsed.days * 86_400 + elapsed.seconds) * US_PER_SECOND + elapsed.microseconds
    return ticks - (offset // datetime.timedelta(microseconds=1) if offset else 0)


def date_to_text(days: int) -> str:
    """Return a date as Postgres writes it under DateStyle ISO."""
    if days in (DATE_INFINITY, DATE_MINUS_INFINITY):
        return "infinity" if days > 0 else "-infinity"
    text, suffix = _civil_text(days)
    return text + suffix


def timestamp_to_text(ticks: int, *, with_zone: bool) -> str:
    """Return a timestamp as Postgres writes it under DateStyle ISO and TimeZone UTC."""
    if ticks in (TIMESTAMP_INFINITY, TIMESTAMP_MINUS_INFINITY):
        return "infinity" if ticks > 0 else "-infinity"
    days, us = divmod(ticks, US_PER_DAY)
    text, suffix = _civil_text(days)
    seconds, us = divmod(us, US_PER_SECOND)
    fraction = f".{us:06d}".rstrip("0") if us else ""
    clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{fraction}"
    return f"{text} {clock}{'+00' if with_zone else ''}{suffix}"


def _civil_text(days: int) -> tuple[str, str]:
    year, month, day = _civil_from_days(days)
    suffix = " BC" if year <= 0 else ""
    return f"{year if year > 0 else 1 - year:04d}-{month:02d}-{day:02d}", suffix


def _parse(text: str, type_name: str, position: int) -> _Moment:
    for form in _FORMS:
        if len(text) <= MAX_CHARACTERS and (match := form.fullmatch(text.strip())):
            return _moment(match, position)
    raise FilterError(
        f"invalid input syntax for type {type_name}",
        position,
        INVALID_DATETIME,
        "write 2026-01-31, 2026-01-31 23:59:59.5+01:00, or infinity",
    )


def _moment(match: re.Match[str], position: int) -> _Moment:
    year, month, day = int(match["year"]), int(match["month"]), int(match["day"])
    if year == 0:
        raise FilterError("there is no year 0", position, DATETIME_OVERFLOW)
    year = 1 - year if match["bc"] else year
    if not (1 <= month <= 12 and 1 <= day <= _month_length(year, month)):
        raise FilterError("date field value out of range", position, DATETIME_OVERFLOW)
    us, offset = _us_of_day(match, position), _offset_s(match, position)
    return _Moment(_days_from_civil(year, month, day), us, offset)


def _us_of_day(match: re.Match[str], position: int) -> int:
    if match["hour"] is None:
        return 0
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"] or 0)
    fraction = round(float("0" + (match["fraction"] or "")) * US_PER_SECOND)
    us = ((hour * 60 + minute) * 60 + second) * US_PER_SECOND + fraction
    # Postgres takes 24:00:00 and a 60th second, and carries them over.
    if minute > 59 or second > 60 or hour > 24 or us > US_PER_DAY:
        raise FilterError("time field value out of range", position, DATETIME_OVERFLOW)
    return us


def _offset_s(match: re.Match[str], position: int) -> int | None:
    if match["zone"] is None:
        return None
    if match["sign"] is None:
        return 0
    hours, minutes, seconds = int(match["zh"]), int(match["zm"] or 0), int(match["zs"] or 0)
    if hours > 15 or minutes > 59 or seconds > 59:
        raise FilterError("time zone displacement out of range", position, "22009")
    offset = (hours * 60 + minutes) * 60 + seconds
    return -offset if match["sign"] == "-" else offset


def _month_length(year: int, month: int) -> int:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 29 if month == 2 and leap else _MONTH_LENGTHS[month - 1]


def _days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 2000-01-01 in the Gregorian calendar run backwards; year 0 is 1 BC.

    Counted from 0000-03-01, so that the leap day ends a year.
    """
    year, month = (year, month - 3) if month > 2 else (year - 1, month + 9)
    day_of_year = (153 * month + 2) // 5 + day - 1
    return year * 365 + year // 4 - year // 100 + year // 400 + day_of_year - 730_425


def _civil_from_days(days: int) -> tuple[int, int, int]:
    era, day = divmod(days + 730_425, 146_097)
    # Leap days of the era so far: every 1,460 days, not every 36,524, but on the last.
    year = (day - day // 1_460 + day // 36_524 - day // 146_096) // 365
    day_of_year = day - (year * 365 + year // 4 - year // 100)
    month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month + 2) // 5 + 1
    year += era * 400
    return (year, month + 3, day) if month < 10 else (year + 1, month - 9, day)
