"""The language: what is read, how tightly operators bind, what is refused and where."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.filters import FilterError, parse
from server.filters.parser import MAX_LIST_ITEMS, parse_syntax
from tests.fix_filters import Table, documented_examples, table

TYPES = {
    "a": "int4",
    "b": "bool",
    "t": "text",
    "l": "text[]",
    "date": "date",
    "u": "uuid",
    "z": "timestamptz",
    "Big Name": "int8",
}


def failure(text: str) -> FilterError:
    """Return the error of a filter over TYPES."""
    with pytest.raises(FilterError) as caught:
        parse(text, None, TYPES)
    return caught.value


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a = 1 or b and not b", "(a = 1) or (b and (not b))"),
        ("not a = 1", "not (a = 1)"),
        ("a + 2 * 3 = 7", "(a + (2 * 3)) = 7"),
        ("a - 1 - 1 = 0", "((a - 1) - 1) = 0"),
        ("- a + 1 = 0", "(- a) + 1 = 0"),
        ("a::text = '1'", "(a::text) = '1'"),
        ("a between 1 and 2 and b", "(a between 1 and 2) and b"),
        ("a = 1 is null", "(a = 1) is null"),
        ("a is null = b", "(a is null) = b"),
        ("t || 'x' like 'y%'", "(t || 'x') like 'y%'"),
        ("b = not b", "b = (not b)"),
        ("a in (1, 2) = b", "(a in (1, 2)) = b"),
        ("t ~~ 'x' and b", "(t ~~ 'x') and b"),
        ("a is distinct from 1 + 1", "a is distinct from (1 + 1)"),
        ("a OPERATOR(pg_catalog.+) 1 * 2 = 3", "(a + (1 * 2)) = 3"),
        ("a <-1", "a < (-1)"),
        ("A = 1 /* a /* nested */ comment */ -- and the rest", "a = 1"),
        ("((a)::numeric > 2.5)", "cast(a as numeric) > 2.5"),
        ("(a = ANY ('{1,2}'::integer[]))", "a = any(array[1, 2])"),
        ("a != 1", "a <> 1"),
        ("pg_catalog.upper(t) = 'X'", "upper(t) = 'X'"),
        ("date = date '2026-01-01'", "\"date\" = cast('2026-01-01' as date)"),
        ("z < timestamp with time zone '2026-01-01'", "z < '2026-01-01'::timestamptz"),
        ("a = 0x10 or a = 1_000", "a = 16 or a = 1000"),
        ("t = E'\\x41\\n\\'\\u00e9'", "t = 'A\n''é'"),
        ("t = 'a'\n'b'", "t = 'ab'"),
        ("t = 'x' collate \"C\"", "t = 'x'"),
        ("a isnull or a notnull", "a is null or a is not null"),
        ('"Big Name" = 1', '("Big Name") = 1'),
        ("case a when 1 then b else b end", "case when a = 1 then b else b end"),
    ],
)
def test_two_spellings_keep_the_same_rows(text: str, same: str) -> None:
    rows = table(
        a=("int4", [-1, 0, 1, 2, 3, 7, 16, 1000, None]),
        b=("bool", [True, False, None] * 3),
        t=("text", ["x", "A\n'é", "yx", "1", "X", "ab", None, "", "y"]),
        date=("date", [9497, 0, None] * 3),
        z=("timestamptz", [0, 9497 * 86_400_000_000, None] * 3),
        **{"Big Name": ("int8", [1, None, 2] * 3)},
    )
    for truth in ("true", "false", "unknown"):
        assert rows.keep(f"({text}\n) is {truth}") == rows.keep(f"({same}) is {truth}")


@pytest.mark.parametrize(
    ("text", "sqlstate", "position"),
    [
        ("", "42601", 0),
        ("a =", "42601", 3),
        ("a = = 1", "42601", 4),
        ("a = 1 1", "42601", 6),
        ("a < 1 < 2", "42601", 6),
        ("a between 1 and 2 between 3 and 4", "42601", 18),
        ("(a = 1", "42601", 6),
        ("a = 'x", "42601", 4),
        ('"a = 1', "42601", 0),
        ('"" = 1', "42601", 0),
        ("a /* = 1", "42601", 2),
        ("a in ()", "42601", 7),
        ("a = 1abc", "42601", 4),
        ("select", "42601", 0),
        ("case a end", "42601", 7),
        ("a ; b", "42601", 2),
        ("x = 1", "42703", 0),
        ("b and A1 = 1", "42703", 6),
        ("a = 'x'", "22P02", 4),
        ("a = '99999999999'", "22003", 4),
        ("date = 'soon'", "22007", 7),
        ("date = '2026-02-30'", "22008", 7),
        ("u = 'x'", "22P02", 4),
        ("l @> 'x'", "22P02", 5),
        ("b = 'maybe'", "22P02", 4),
        ("t + 1 = 2", "42883", 2),
        ("a = t", "42883", 2),
        ("a like 'x'", "42883", 2),
        ("a @> 1", "42883", 2),
        ("t = 5", "42883", 2),
        ("u < 5", "42883", 2),
        ("sqrt(a) = 1", "42883", 0),
        ("upper(a) = 'x'", "42883", 0),
        ("a", "42804", 0),
        ("a and b", "42804", 0),
        ("not t", "42804", 4),
        ("case when b then a else t end = 1", "42804", 0),
        ("b::date is null", "42846", 1),
        ("a = any(a)", "42809", 2),
        ("array[] = l", "42P18", 0),
        ("'1' + '1' = 2", "42725", 4),
        ("t like 'x' escape 'ab'", "22019", 18),
        ("t ~ 'x'", "0A000", 2),
        ("a in (select 1)", "0A000", 6),
        ("(select 1) = a", "0A000", 1),
        ("(a, a) = (1, 2)", "0A000", 2),
        ("l[1] = 'a'", "0A000", 1),
        ("x.a = 1", "0A000", 0),
        ("a::jsonb is null", "0A000", 3),
        ("t::varchar(3) = 'x'", "0A000", 10),
        ("t = 'x' collate \"de_DE\"", "0A000", 16),
        ("l @> '{{a},{b}}'", "0A000", 5),
        ("t = 'a\0b'", "22021", 0),
        ("t = E'\\xff'", "22021", 4),
        ("t = E'\\000'", "22021", 4),
    ],
)
def test_mistakes_are_named_where_they_are(text: str, sqlstate: str, position: int) -> None:
    error = failure(text)
    assert (error.sqlstate, error.position) == (sqlstate, position), error.message


def test_hints_help() -> None:
    assert failure("dat = '2026-01-01'").hint == 'did you mean "date"?'
    assert "u, z" in (failure("nothing = 1").hint or "")
    assert "LIKE" in (failure("t ~ 'x'").hint or "")
    assert "double quotes" in (failure("select = 1").hint or "")


def test_messages_do_not_repeat_literals() -> None:
    for text in ("a = 'secret'", "date = 'secret'", "l @> 'secret'", "u = 'secret'"):
        error = failure(text)
        assert "secret" not in error.message + str(error.hint)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000 + "b" + ")" * 5000,
        "not " * 5000 + "b",
        "- " * 5000 + "1 = a",
        "a" + " + 1" * 5000 + " = 2",
        "b" + "::bool" * 5000,
        "case when b then " * 500 + "b" + " end" * 500,
        "abs(" * 500 + "a" + ")" * 500 + " = 1",
        "a in (" * 500 + "1" + ")" * 500,
        "t = '" + "x" * 2_000_000 + "'",
        "l @> '{" + " " * 900_000 + "'",
        "date = '2000-01-01 00:00" + " " * 900_000 + "x'",
        "a in (" + "1," * MAX_LIST_ITEMS + "1)",
        "a = 1" + " or a = 1" * MAX_LIST_ITEMS,
    ],
    ids=lambda text: text[:12],
)
def test_what_is_too_deep_or_too_long_is_refused(text: str) -> None:
    assert failure(text).sqlstate in ("54000", "54001", "22P02", "22007")


def test_numbers_of_any_length_are_read_or_refused() -> None:
    assert table(a=("int8", [1])).keep("a < " + "9" * 900) == [0]
    for text in ("a < " + "9" * 100_000, "a < 1e999999999", "a = '" + "9" * 100_000 + "'"):
        assert failure(text).sqlstate == "22003"


def test_long_lists_are_fine() -> None:
    rows = table(a=("int4", [5, 4999, 5000]), t=("text", ["5", "x", "4999"]))
    listed = ", ".join(map(str, range(5000)))
    assert rows.keep(f"a in ({listed})") == [0, 1]
    assert rows.keep(" or ".join(f"a = {n}" for n in range(3000))) == [0]
    assert rows.keep("t = any($1)", [[str(n) for n in range(50_000)]]) == [0, 2]


PIECES = [example.text for example in documented_examples()]
CHARACTERS = [*"abt'\"()[]{}$:.,;=<>!~*%&@|+-/\\ \n0129eExX_\0é\ud800", " and ", " in ", "case "]


def position_of_error(text: str, rows: Table | None) -> int:
    """Return where a filter goes wrong, 0 if it does not; any other exception passes through."""
    try:
        if rows is None:
            parse_syntax(text)
        else:
            rows.keep(text, [20, "shoe"] if "$2" in text else [20] if "$1" in text else None)
    except FilterError as error:
        return error.position
    return 0


def mutated(text: str, chance: random.Random) -> str:
    """Return ``text`` with a few characters removed, added, or swapped with another filter's."""
    for _ in range(chance.randrange(1, 5)):
        at, length = chance.randrange(len(text) + 1), chance.randrange(6)
        other = chance.choice(PIECES)
        start = chance.randrange(len(other))
        insert = chance.choice(["", chance.choice(CHARACTERS), other[start : start + length]])
        text = text[:at] + insert + text[at + chance.choice([0, length]) :]
    return text


@given(st.randoms(use_true_random=False))
@settings(max_examples=600, deadline=None)
def test_a_mutated_filter_is_read_or_refused(chance: random.Random) -> None:
    text = mutated(chance.choice(PIECES), chance)
    rows = table(
        price=("int4", [20, 0, None]),
        category=("text", ["shoe", "", None]),
        sold=("bool", [True, False, None]),
        tags=("text[]", [["red"], [], None]),
        stock=("int8", [3, 0, -(2**63)]),
        rating=("float8", [4.5, float("nan"), None]),
        added=("timestamptz", [0, 2**63 - 1, None]),
        owner=("uuid", [b"\1" * 16, b"\0" * 16, None]),
    )
    assert 0 <= position_of_error(text, rows) <= len(text)


@given(st.text())
@settings(max_examples=300)
def test_any_text_is_read_or_refused(text: str) -> None:
    assert 0 <= position_of_error(text, None) <= len(text)
