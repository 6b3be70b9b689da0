"""Statements are split and shortened as Postgres' lexer would, and nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.sql.errors import SqlError
from server.sql.lifting import FIRST_LIFTED, lift, split

LONG = "x" * 60


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1;", ["SELECT 1"]),
        (" ; ;; ", []),
        ("", []),
        ("-- nothing", []),
        ("/* no /* nothing */ thing */ ;", []),
        ("SELECT ';'; SELECT 2", ["SELECT ';'", " SELECT 2"]),
        ("SELECT 'it''s;'; SELECT 2", ["SELECT 'it''s;'", " SELECT 2"]),
        (r"SELECT E'\';'; SELECT 2", [r"SELECT E'\';'", " SELECT 2"]),
        ('SELECT ";"; SELECT 2', ['SELECT ";"', " SELECT 2"]),
        ("SELECT 1 -- ;\n; SELECT 2", ["SELECT 1 -- ;\n", " SELECT 2"]),
        ("SELECT /* ; /* ; */ ; */ 1; SELECT 2", ["SELECT /* ; /* ; */ ; */ 1", " SELECT 2"]),
        ("SELECT $$;$$; SELECT $a$ $$; $a$;", ["SELECT $$;$$", " SELECT $a$ $$; $a$"]),
        ("SELECT $1; SELECT 2", ["SELECT $1", " SELECT 2"]),
        (
            "ROLLBACK TO SAVEPOINT s2; RELEASE SAVEPOINT s2",
            ["ROLLBACK TO SAVEPOINT s2", " RELEASE SAVEPOINT s2"],
        ),
    ],
)
def test_statements_end_at_semicolons_outside_of_literals(text: str, expected: list[str]) -> None:
    assert split(text) == expected


def test_long_literals_become_parameters() -> None:
    found = lift(f"SELECT '{LONG}', 'short', 'it''s {LONG}' FROM t")
    assert found.text == f"SELECT ${FIRST_LIFTED}, 'short', ${FIRST_LIFTED + 1} FROM t"
    assert found.values == (LONG, f"it's {LONG}")


@pytest.mark.parametrize(
    "text",
    [
        f"SELECT E'{LONG}'",
        f"SELECT vector '{LONG}'",
        f"SELECT public.vector '{LONG}'",
        f"SELECT '{LONG}'\n'more'",
        f'SELECT "{LONG}"',
        f"SELECT 1 -- '{LONG}'",
        f"SELECT $${LONG}$$",
        f"SELECT $70001, '{LONG}'",
        f"SELECT B'{LONG}'",
    ],
)
def test_what_is_no_plain_literal_stays(text: str) -> None:
    assert lift(text).text == text


def test_positions_are_those_of_the_original_text() -> None:
    text = f"SELECT a = '{LONG}', bad, '{LONG}', worse"
    found = lift(text)
    for word in ("SELECT", "bad", "worse", "a ="):
        assert found.position(found.text.index(word)) == text.index(word)


@given(
    st.lists(st.sampled_from(["'", "''", "a", ";", "--", "/*", "*/", "\n", '"', "$", "E'", LONG]))
)
def test_no_text_is_lost_whatever_it_is(pieces: list[str]) -> None:
    text = "".join(pieces)
    refused = None
    try:
        statements = split(text)
        found = lift(text)
    except SqlError as error:
        refused = error
    if refused:
        assert refused.sqlstate == "42601"
        assert text[(refused.position or 0) - 1] in "'\"/"
        return
    rebuilt = found.text
    for number, value in reversed(list(enumerate(found.values))):
        quoted = "'" + value.replace("'", "''") + "'"
        rebuilt = rebuilt.replace(f"${FIRST_LIFTED + number}", quoted)
    assert rebuilt == text
    assert "".join(statements).replace(";", "") in text.replace(";", "")
