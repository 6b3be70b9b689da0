"""What a parsed filter does with rows."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.columns import ColumnView
from server.filters import FilterError, parse
from tests.fix_filters import column_view, table

THREE = st.sampled_from([True, False, None])
NAN = float("nan")


def kleene(text: str, a: bool | None, b: bool | None) -> bool | None:
    """Three-valued logic by its definition: NULL stands for either truth value."""
    results = {
        eval(text, {"a": x, "b": y})
        for x in ([True, False] if a is None else [a])
        for y in ([True, False] if b is None else [b])
    }
    return results.pop() if len(results) == 1 else None


@given(st.lists(st.tuples(THREE, THREE), min_size=1))
@pytest.mark.parametrize("text", ["a and b", "a or b", "not a", "not (a and not b)"])
def test_connectives_are_three_valued(
    text: str, pairs: list[tuple[bool | None, bool | None]]
) -> None:
    rows = table(a=("bool", [a for a, _ in pairs]), b=("bool", [b for _, b in pairs]))
    expected = [kleene(text, a, b) for a, b in pairs]
    for test, wanted in (("true", True), ("false", False), ("unknown", None)):
        kept = rows.keep(f"({text}) is {test}")
        assert kept == [row for row, value in enumerate(expected) if value is wanted]


@given(st.lists(st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)), min_size=1), st.data())
def test_integer_comparisons_are_those_of_integers(values: list[int | None], data: Any) -> None:
    bound = data.draw(st.one_of(st.integers(-(2**65), 2**65), st.integers(-3, 3)))
    rows = table(a=("int4", values))
    for operator, holds in {"=": int.__eq__, "<": int.__lt__, ">=": int.__ge__}.items():
        expected = [n for n, v in enumerate(values) if v is not None and holds(v, bound)]
        assert rows.keep(f"a {operator} {bound}") == expected
        assert rows.keep(f"a {operator} {bound}.0") == expected
    assert rows.keep(f"a in ({bound}, {bound}, NULL)") == rows.keep(f"a = {bound}")


@given(
    st.lists(
        st.one_of(
            st.none(), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
        ),
        min_size=1,
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
)
def test_text_is_ordered_by_its_bytes(values: list[str | None], bound: str) -> None:
    rows = table(t=("text", values))
    expected = [n for n, v in enumerate(values) if v is not None and v.encode() < bound.encode()]
    assert rows.keep("t < $1", [bound]) == expected
    assert rows.keep("$1 > t", [bound]) == expected
    equal = [n for n, v in enumerate(values) if v == bound]
    assert rows.keep("t = $1", [bound]) == equal
    assert rows.keep("t = any($1)", [[bound, None]]) == equal


@pytest.mark.parametrize("kind", ["float4", "float8"])
def test_nan_equals_itself_and_is_greatest(kind: str) -> None:
    rows = table(f=(kind, [NAN, float("inf"), 1.0, None]))
    assert rows.keep("f = 'NaN'") == [0]
    assert rows.keep("f > 'inf'") == [0]
    assert rows.keep("f >= 1") == [0, 1, 2]
    assert rows.keep("f < 'NaN'") == [1, 2]
    assert rows.keep("f in ('NaN', 1)") == [0, 2]
    assert rows.keep("f = f") == [0, 1, 2]


def test_a_float4_column_meets_a_literal_as_float8() -> None:
    rows = table(f=("float4", [0.1, 0.5]))
    assert rows.keep("f = 0.1") == []
    assert rows.keep("f = '0.1'") == [0]
    assert rows.keep("f in (0.1)") == []
    assert rows.keep("f in (0.1, 0.5)") == [0, 1]


def test_a_null_in_a_list_makes_every_miss_unknown() -> None:
    rows = table(a=("int4", [1, 2, None]))
    assert rows.keep("a in (1, NULL)") == [0]
    assert rows.keep("a not in (1, NULL)") == []
    assert rows.keep("(a not in (1, NULL)) is unknown") == [1, 2]


def test_quantifiers_over_empty_and_null_arrays() -> None:
    rows = table(a=("int4", [1, None]), l=("int4[]", [[], None]))
    assert rows.keep("a = any('{}')") == []
    assert rows.keep("a = all('{}')") == [0, 1]
    assert rows.keep("a <> all(l)") == [0]
    assert rows.keep("(1 = any(l)) is unknown") == [1]
    assert rows.keep("(a = any(NULL)) is unknown") == [0, 1]


def test_arrays_with_null_items() -> None:
    rows = table(l=("text[]", [["a", None], [None], [], None, ["b", "a", "a"]]))
    assert rows.keep("l && '{a}'") == [0, 4]
    assert rows.keep("l && '{NULL}'") == []
    assert rows.keep("l @> '{a,a}'") == [0, 4]
    assert rows.keep("l @> '{NULL}'") == []
    assert rows.keep("l @> '{}'") == [0, 1, 2, 4]
    assert rows.keep("l <@ '{a,b}'") == [2, 4]
    assert rows.keep("l = '{a,NULL}'") == [0]
    assert rows.keep("l < '{b}'") == [0, 2]
    assert rows.keep("l && l") == [0, 4]
    assert rows.keep("l @> l") == [2, 4]


def test_an_error_counts_only_in_rows_that_are_needed() -> None:
    rows = table(a=("int4", [0, 5, None]))
    assert rows.keep("a <> 0 and 10 / a = 2") == [1]
    assert rows.keep("a = 0 or 10 / a = 2") == [0, 1]
    assert rows.keep("case when a = 0 then 0 else 10 / a end = 2") == [1]
    with pytest.raises(FilterError) as caught:
        rows.keep("10 / a = 2 and a <> 0")
    assert caught.value.sqlstate == "22012"
    assert caught.value.position == 3


def test_an_error_in_a_dead_row_is_none() -> None:
    column = column_view("int4", [0, 5])
    divides = parse("10 / a = 2", None, {"a": "int4"})
    live = np.array([False, True])
    assert divides.evaluate(lambda _: column, 2, live).tolist() == [False, True]
    with pytest.raises(FilterError):
        divides.evaluate(lambda _: column, 2)


def test_a_bad_text_fails_a_cast_only_where_a_row_has_it() -> None:
    rows = table(t=("text", ["12", "x", None]), ok=("bool", [True, False, True]))
    assert rows.keep("ok and t::int4 = 12") == [0]
    with pytest.raises(FilterError) as caught:
        rows.keep("t::int4 = 12")
    assert caught.value.sqlstate == "22P02"


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        ("a + 1 > 0", "22003"),
        ("a * 2 > 0", "22003"),
        ("-b > 0", "22003"),
        ("abs(b) > 0", "22003"),
        ("b / -1 > 0", "22003"),
        ("b - 1 > 0", "22003"),
        ("a % 0 = 0", "22012"),
        ("f / 0 > 0", "22012"),
        ("f * f > 0", "22003"),
        ("a::int2 > 0", "22003"),
        ("f::float4 > 0", "22003"),
        ("d + 1 > d", "22008"),
        ("1 / 0 = 1", "22012"),
    ],
)
def test_overflow_and_division_by_zero_are_errors(text: str, sqlstate: str) -> None:
    columns = {"a": ("int4", [2**31 - 1]), "b": ("int8", [-(2**63)])}
    rows = table(**columns, f=("float8", [1e300]), d=("date", [2_145_031_948]))
    with pytest.raises(FilterError) as caught:
        rows.keep(text)
    assert caught.value.sqlstate == sqlstate


def test_integers_divide_towards_zero() -> None:
    rows = table(a=("int4", [-7, 7]))
    assert rows.keep("a / 2 = -3") == [0]
    assert rows.keep("a % 2 = -1") == [0]
    assert rows.keep("a % -2 = 1") == [1]


def test_numerics_are_exact() -> None:
    rows = table(a=("int8", [2**63 - 1, 3]))
    assert rows.keep("a + 0.1 = 9223372036854775807.1") == [0]
    assert rows.keep("a * 0.1 = 0.3") == [1]
    assert rows.keep("a / 7.0 = 0.42857142857142857143") == [1]


def test_parameters_of_all_kinds() -> None:
    owner = uuid.uuid4()
    day = datetime.date(2026, 1, 31)
    instant = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
    us = (instant - datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(
        microseconds=1
    )
    rows = table(
        i=("int4", [1, 2]),
        f=("float8", [0.5, 1.0]),
        t=("text", ["a", "b"]),
        b=("bool", [True, False]),
        u=("uuid", [owner.bytes, b"\0" * 16]),
        d=("date", [9527, 0]),
        z=("timestamptz", [us, 0]),
        l=("text[]", [["a"], []]),
    )
    for text, value in {
        "i = $1": 1,
        "i < $1": 2.0,
        "f = $1": Decimal("0.5"),
        "t = $1": "a",
        "b = $1": True,
        "$1 and b": True,
        "u = $1": owner,
        "u::text = $1": str(owner),
        "d = $1": day,
        "d = $1 or false": "2026-01-31",
        "z = $1": instant,
        "z >= $1": "2026-01-31T13:00:00+01:00",
        "l = $1": ["a"],
        "i = any($1)": [1, None],
        "$1 = any(l)": "a",
        "t like $1": "a%",
        "i is not distinct from $1": 1,
    }.items():
        assert rows.keep(text, [value]) == [0], text
        assert rows.keep(text.replace("$1", ":x"), {"x": value}) == [0], text
    assert rows.keep("$1 is null or i = $1", [None]) == [0, 1]
    assert rows.keep("$1 is null or i = $1", [2]) == [1]


@pytest.mark.parametrize(
    ("text", "params", "sqlstate"),
    [
        ("a = $2", [1], "42P02"),
        ("a = $1", None, "42P02"),
        ("a = :x", [1], "42P02"),
        ("a = $1", [1, 2], "08P01"),
        ("a = 1", {"x": 1}, "08P01"),
        ("a = $1", ["x"], "22P02"),
        ("a = $1", [1.5], "22P02"),
        ("a = $1", [True], "22P02"),
        ("a = $1", [2**40], "22003"),
        ("t = $1", [5], "22P02"),
        ("t = $1", ["a\0b"], "22021"),
        ("t = $1", ["\ud800"], "22021"),
        ("t = $1", [{"a": 1}], "22P02"),
        ("a = any($1)", [5], "22P02"),
    ],
)
def test_wrong_parameters(text: str, params: Any, sqlstate: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse(text, params, {"a": "int4", "t": "text"})
    assert caught.value.sqlstate == sqlstate


def test_a_filter_keeps_nothing_of_no_rows() -> None:
    for text in ("a = 1", "true", "a / 2 > 0 and l && '{1}'", "1 = any(l)", "a * 1.5 > 2"):
        rows = table(a=("int4", []), l=("int4[]", []))
        assert rows.keep(text) == []


def test_a_constant_filter_keeps_all_rows_or_none() -> None:
    rows = table(a=("int4", [1, 2, 3]))
    assert rows.keep("true") == [0, 1, 2]
    assert rows.keep("1 > 2 or NULL") == []
    assert rows.keep("'2026-01-01'::timestamptz = timestamp '2026-01-01'") == [0, 1, 2]


def test_the_mask_is_the_callers_own() -> None:
    view = column_view("bool", [True, False])
    keeps = parse("b", None, {"b": "bool"})
    mask = keeps.evaluate(lambda _: view, 2)
    mask[:] = False
    assert keeps.evaluate(lambda _: view, 2).tolist() == [True, False]


def test_a_dictionary_may_hold_more_than_the_rows_use_and_grow_meanwhile() -> None:
    words = ["", "b", "a", "unused"]
    view = ColumnView("text", np.ones(2, bool), np.array([1, 2], np.int32), words)
    keeps = parse("t < 'b' or upper(t) = 'X'", None, {"t": "text"})
    assert keeps.evaluate(lambda _: view, 2).tolist() == [False, True]
    words.append("later")
    assert keeps.evaluate(lambda _: view, 2).tolist() == [False, True]


def test_a_filter_says_which_columns_it_reads() -> None:
    types = {"a": "int4", "b": "bool", "t": "text", "x": "int4"}
    text = "a = 1 and (b or t like any('{a}')) and case when x between a and 5 then b end"
    assert parse(text, None, types).columns == {"a", "b", "t", "x"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f::text = '0.1'", [0]),
        ("f::text = '1e+15'", [1]),
        ("f::text = '-0'", [2]),
        ("f::text = 'NaN'", [3]),
        ("f::text = '123456789012345'", [4]),
        ("f::text = '1e-05'", [5]),
        ("f::text = '-Infinity'", [6]),
    ],
)
def test_floats_are_written_as_postgres_writes_them(text: str, expected: list[int]) -> None:
    values = [0.1, 1e15, -0.0, NAN, 123456789012345.0, 1e-05, -float("inf")]
    assert table(f=("float8", values)).keep(text) == expected


def test_shared_operands_are_evaluated_once() -> None:
    # Were they not, the innermost would be evaluated 2 ** 40 times.
    text = "b"
    for _ in range(40):
        text = f"({text} between symmetric false and true)"
    assert table(b=("bool", [True, False, None])).keep(text) == [0, 1]
