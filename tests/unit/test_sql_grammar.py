"""Reading statements: whatever the text, there is a statement or an error with its place."""

from __future__ import annotations

import random
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.filters import FilterError
from server.sql.errors import SqlError
from server.sql.grammar import read_statement
from server.sql.lifting import lift, split
from server.sql.statements import (
    Close,
    Commit,
    Deallocate,
    Explain,
    Fetch,
    Reset,
    Rollback,
    RollbackTo,
    SetVariable,
    Show,
)
from tests.fix_sql_session import Talk, desk

#: Pieces of what clients send, and of what nobody should.
PIECES = re.split(
    r"\s+",
    r"""SELECT FROM WHERE ORDER BY LIMIT OFFSET DECLARE c1 CURSOR FOR FETCH MOVE BACKWARD ALL IN
    EXPLAIN BEGIN COMMIT SAVEPOINT s ROLLBACK TO SET x = SHOW PREPARE q AS EXECUTE q CLOSE
    items id embedding query k distance filter tenant name price count(*) * , . ( ) (( )) [ ]
    '[1,2,3]' 'x' '' E'\n' $1 $2 $0 $70000 :: integer public.vector bigint[] text AND OR NOT
    NULL TRUE IS DISTINCT BETWEEN LIKE ANY CASE WHEN THEN END <-> <=> = < >= + - / :name
    OPERATOR(public.<->) OPERATOR(pg_catalog.=) (SELECT null::bigint) ((SELECT
    null::public.vector)::public.vector) ASC DESC NULLS LAST 1 0.5 1e400 99999999999999999999 --
    /* */ ; " "a" search('items', vecmirror. pg_catalog. random() TABLESAMPLE BERNOULLI(5)""",
)

texts = st.lists(st.sampled_from(PIECES), max_size=30).map(" ".join) | st.text(max_size=60)


@settings(max_examples=1500, deadline=None)
@given(texts)
def test_any_text_is_a_statement_or_an_error(text: str) -> None:
    refused = None
    try:
        statements = [lift(statement) for statement in split(text)]
    except SqlError as error:
        refused = error
    if refused:
        assert refused.sqlstate == "42601"
        return
    for lifted in statements:
        position = error_position(lifted.text)
        assert position is None or 0 <= position <= len(lifted.text)


def error_position(text: str) -> int | None:
    """Return where the error of a statement is, from 0; None if there is none or nowhere."""
    try:
        read_statement(text)
    except FilterError as error:
        return error.position
    except SqlError as error:
        return None if error.position is None else error.position - 1
    return None


def test_sessions_outlive_any_text(tmp_path: Any) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    valid = (
        "SELECT id, distance FROM items WHERE query = '[1,2,3]' AND tenant = 3 ORDER BY distance"
    )
    with desk(tmp_path, 30) as made:
        talk = made.talk()
        for _ in range(1500):
            words = valid.split(" ")
            for _ in range(chance.choice([1, 1, 2, 3, 8])):
                words[chance.randrange(len(words))] = chance.choice(PIECES)
            assert sqlstate_of(talk, " ".join(words)) != "XX000", " ".join(words)
            if talk.status != "I":
                talk("ROLLBACK")
        assert talk.rows("SELECT count(*) FROM items") == [30]


def sqlstate_of(talk: Talk, text: str) -> str | None:
    """Return the code of the error that a script ends in."""
    try:
        talk.script(text)
    except SqlError as error:
        return error.sqlstate
    return None


@pytest.mark.parametrize(
    "text",
    [
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT " + "-" * 3 + " 1",
        "SELECT " + "NOT " * 5000 + "true",
        "SELECT id FROM items WHERE " + " AND ".join(["tenant = 1"] * 5000),
        "SELECT id FROM items WHERE " + "(" * 300 + "tenant = 1" + ")" * 300,
        "SELECT " + ",".join(["1"] * 5000),
        "SELECT 1" + "::text" * 3000,
        "FETCH " + "9" * 100_000 + " FROM c",
        "SELECT $" + "9" * 100_000,
        "DECLARE a CURSOR FOR DECLARE b CURSOR FOR SELECT 1",
        "EXPLAIN EXPLAIN SELECT 1",
    ],
)
def test_hostile_text_ends_in_an_answer_or_an_error(text: str) -> None:
    with suppress(FilterError, SqlError):
        read_statement(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FETCH c", Fetch("c")),
        ("FETCH next", Fetch("next")),
        ("FETCH NEXT FROM next", Fetch("next")),
        ("fetch all in c", Fetch("c", "forward", None)),
        ("FETCH FORWARD 5 c", Fetch("c", "forward", 5)),
        ("FETCH BACKWARD ALL FROM c", Fetch("c", "backward", None)),
        ("FETCH ABSOLUTE -3 FROM c", Fetch("c", "absolute", -3)),
        ("FETCH LAST FROM c", Fetch("c", "absolute", -1)),
        ("MOVE BACKWARD ALL IN c1", Fetch("c1", "backward", None, True)),
        ('FETCH 100 FROM "My Cursor"', Fetch("My Cursor", "forward", 100)),
        ("CLOSE ALL", Close(None)),
        ("CLOSE C1", Close("c1")),
        ("END", Commit()),
        ("COMMIT TRANSACTION", Commit()),
        ("COMMIT WORK AND CHAIN", Commit(True)),
        ("ABORT TRANSACTION", Rollback()),
        ("ROLLBACK AND NO CHAIN;", Rollback()),
        ("ROLLBACK WORK TO SAVEPOINT s2", RollbackTo("s2")),
        ("SET search_path = pg_catalog, public", SetVariable("search_path", "pg_catalog, public")),
        ("SET TIME ZONE 'Europe/Berlin'", SetVariable("timezone", "Europe/Berlin")),
        ("SET LOCAL x.y TO DEFAULT", SetVariable("x.y", None, True)),
        ("SET extra_float_digits TO -3", SetVariable("extra_float_digits", "-3")),
        ("SET jit = off", SetVariable("jit", "off")),
        ("RESET ALL", Reset(None)),
        ("SHOW TIME ZONE", Show("timezone")),
        ("DEALLOCATE PREPARE ALL", Deallocate(None)),
        ("EXPLAIN (COSTS OFF) SELECT 1 FROM a, b", Explain(None)),
    ],
)
def test_these_texts_say(text: str, expected: object) -> None:
    assert read_statement(text) == expected
