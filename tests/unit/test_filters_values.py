"""LIKE patterns, literals, dates and numerics, each against its definition."""

from __future__ import annotations

import datetime
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from server.filters import FilterError, moments
from server.filters.exact import divide
from server.filters.like import DanglingEscape, compile_like
from server.filters.literals import Value, float4_from_text, from_text

PATTERNS = st.text("ab%_\\", max_size=8)
TEXTS = st.text("ab%_\\", max_size=8)


def like(text: str, pattern: str) -> bool:
    """LIKE by its definition; raise DanglingEscape where Postgres' matcher would find one."""
    if not pattern:
        return not text
    first, rest = pattern[0], pattern[1:]
    if first == "%":
        return any(like(text[n:], rest) for n in range(len(text) + 1))
    if not text:
        return False
    if first == "\\":
        if not rest:
            raise DanglingEscape
        return text[0] == rest[0] and like(text[1:], rest[1:])
    return first in ("_", text[0]) and like(text[1:], rest)


@given(TEXTS, PATTERNS)
@settings(max_examples=600)
def test_like_is_what_its_definition_says(text: str, pattern: str) -> None:
    backslashes = len(pattern) - len(pattern.rstrip("\\"))
    if backslashes % 2 == 0:
        assert compile_like(pattern, fold=False)(text) == like(text, pattern)
        assert compile_like(pattern, fold=True)(text.upper()) == like(text, pattern.lower())


def test_like_takes_polynomial_time() -> None:
    # A backtracking matcher would try about 10 ** 50 ways to place the signs.
    matches = compile_like("%a_" * 60 + "%b", fold=False)
    assert not matches("a" * 2000)


@pytest.mark.parametrize(
    ("text", "pattern", "raises"),
    [
        ("abc", "abc\\", False),
        ("abcd", "abc\\", True),
        ("xbcd", "abc\\", False),
        ("", "%\\", False),
        ("a", "%\\", True),
        ("a", "%_\\", True),
        ("", "%_\\", False),
        ("red", "%e\\", True),
        ("are", "%e\\", False),
    ],
)
def test_a_dangling_escape_fails_where_matching_gets_to_it(
    text: str, pattern: str, raises: bool
) -> None:
    matches = compile_like(pattern, fold=False)
    if raises:
        with pytest.raises(DanglingEscape):
            matches(text)
    else:
        assert not matches(text)


@given(st.datetimes())
def test_timestamps_are_read_and_written(value: datetime.datetime) -> None:
    ticks = moments.timestamp_from_python(value, with_zone=False)
    assert ticks == (value - datetime.datetime(2000, 1, 1)) // datetime.timedelta(microseconds=1)
    assert moments.timestamp_from_text(value.isoformat(), 0, with_zone=False) == ticks
    shown = moments.timestamp_to_text(ticks, with_zone=True)
    assert moments.timestamp_from_text(shown, 0, with_zone=True) == ticks


@given(st.integers(moments.FIRST_DAY, moments.DATE_END_DAY - 1))
@example(moments.FIRST_DAY)
@example(moments.DATE_END_DAY - 1)
def test_dates_are_read_and_written(days: int) -> None:
    assert moments.date_from_text(moments.date_to_text(days), 0) == days


@pytest.mark.parametrize(
    ("text", "ticks"),
    [
        ("2000-01-01", 0),
        ("2000-01-01T00:00:00Z", 0),
        ("2000-01-01 01:30+01:30", 0),
        ("1999-12-31 21:00-03", 0),
        ("2000-01-01 00:00:01.5 UTC", 1_500_000),
        ("20000102", 86_400_000_000),
        ("1999-12-31 24:00:00", 0),
        ("2000-01-01 00:00:00.0000005", 0),
        ("2000-01-01 00:00:00.0000015", 2),
        ("infinity", 2**63 - 1),
        (" -Infinity ", -(2**63)),
        ("epoch", -10_957 * 86_400_000_000),
    ],
)
def test_timestamp_literals(text: str, ticks: int) -> None:
    assert moments.timestamp_from_text(text, 0, with_zone=True) == ticks


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "2000-13-01", "2001-02-29", "0000-01-01", "2000-01-01 25:00", "2000-01-01 1"),
        *("2000-01-01 00:61", "01/02/2000", "2000-01-01 00:00 Europe/Berlin", "300000-01-01"),
    ],
)
def test_wrong_timestamp_literals(text: str) -> None:
    with pytest.raises(FilterError):
        moments.timestamp_from_text(text, 0, with_zone=True)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**38), max_value=10**38))
@example(Decimal("1.00000005960464477539062499"))
@example(Decimal("1.00000005960464477539062501"))
def test_float4_literals_are_rounded_once(value: Decimal) -> None:
    try:
        read = float4_from_text(str(value), 0)
    except FilterError:
        assert 0 < abs(value) < Decimal("1e-44")
        return
    nearest = np.float32(read)
    assert float(nearest) == read
    with np.errstate(over="ignore"):
        neighbours = [np.nextafter(nearest, np.float32(side)) for side in (-np.inf, np.inf)]
    miss = abs(Fraction(read) - Fraction(value))
    finite = [float(n) for n in neighbours if np.isfinite(n)]
    assert all(miss <= abs(Fraction(n) - Fraction(value)) for n in finite)


@pytest.mark.parametrize(
    ("a", "b", "quotient"),
    [
        ("1", "3", "0.33333333333333333333"),
        ("2", "3", "0.66666666666666666667"),
        ("10", "3", "3.3333333333333333"),
        ("100000", "3", "33333.333333333333"),
        ("1", "10000", "0.000100000000000000000000"),
        ("-1", "8.000", "-0.12500000000000000000"),
    ],
)
def test_quotients_have_the_scale_that_postgres_chooses(a: str, b: str, quotient: str) -> None:
    assert str(divide(Decimal(a), Decimal(b))) == quotient


@pytest.mark.parametrize(
    ("type_name", "text", "value"),
    [
        ("int2", " -0x8000 ", -32768),
        ("int4", "1_000", 1000),
        ("float8", "-inf", -float("inf")),
        ("float8", "0x1.8p1", 3.0),
        ("bool", " TRU ", True),
        ("bool", "of", False),
        ("uuid", "{00000000000000000000000000000001}", b"\0" * 15 + b"\1"),
        ("numeric", "1e3", Decimal(1000)),
        ("text[]", '{a, " b" ,"c\\"d",NULL,"NULL",\\e}', ("a", " b", 'c"d', None, "NULL", "e")),
        ("int4[]", " { } ", ()),
    ],
)
def test_literals(type_name: str, text: str, value: Value) -> None:
    assert from_text(type_name, text, 0) == value


@pytest.mark.parametrize(
    ("type_name", "text"),
    [
        *(("int2", text) for text in ("", "1.0", "32768", "1__0", "0x", "--1", "\u0661")),
        *(("float8", text) for text in ("", "1e400", "1e-400", "1,5", "nan1", "1_0")),
        *(("bool", text) for text in ("", "o", "truee", "2")),
        *(("uuid", text) for text in ("", "0" * 31, "0" * 33, "g" * 32, "0-" * 16)),
        *(("text[]", text) for text in ("", "a", "{a", "{a,}", "{,a}", "{a}b", '{"a}', "{a{b}")),
        *(("numeric", text) for text in ("", ".", "1e", "e1", "1..2")),
    ],
)
def test_wrong_literals(type_name: str, text: str) -> None:
    with pytest.raises(FilterError):
        from_text(type_name, text, 0)
