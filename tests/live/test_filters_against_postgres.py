"""Differential test: random filters mean to us what they mean to Postgres, errors included.

FILTER_FUZZ_COUNT sets how many predicates a run compares, FILTER_FUZZ_SEED replays a run.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from server.columns import ColumnView
from server.filters import FilterError, parse
from tests.fix_filters import Example, documented_examples, documented_rows
from tests.fix_postgres import Database
from tests.random_filters import COLUMNS, N_ROWS, SQL_TYPES, Expressions, Rows

COUNT = int(os.environ.get("FILTER_FUZZ_COUNT", "3000"))
SEED = int(os.environ.get("FILTER_FUZZ_SEED", str(random.SystemRandom().randrange(2**32))))
BATCH = 250
FDW_COUNT = 150

#: Errors of ours where Postgres has an answer, or words the lack of a parameter differently.
OURS_ALONE = ("0A000", "42P02")

PROBE = """
CREATE FUNCTION probe(expression text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE ids text;
BEGIN
  EXECUTE 'SELECT string_agg(id::text, '','' ORDER BY id) FROM fz WHERE (' || expression
    || ') IS TRUE' INTO ids;
  RETURN coalesce(ids, '');
EXCEPTION WHEN OTHERS THEN RETURN 'error ' || SQLSTATE || ' ' || SQLERRM;
END $$
"""


def ours(text: str, views: dict[str, ColumnView]) -> str:
    """Return the ids that a filter keeps, or its error, in the words of ``probe``."""
    try:
        kept = parse(text, None, COLUMNS).evaluate(views.__getitem__, N_ROWS)
    except FilterError as error:
        return f"error {error.sqlstate} {error.message}"
    return ",".join(str(row) for row in kept.nonzero()[0].tolist())


def agree(mine: str, theirs: str) -> bool:
    """Whether two answers are the same, or both are errors."""
    if mine.startswith("error") and theirs.startswith("error"):
        return True
    return mine == theirs


@pytest.fixture
def connection(database18: Database) -> Iterator[psycopg.Connection]:
    with database18.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def test_random_filters_mean_what_they_mean_to_postgres(connection: psycopg.Connection) -> None:
    print(f"FILTER_FUZZ_SEED={SEED} FILTER_FUZZ_COUNT={COUNT}")
    chance = random.Random(SEED)
    rows = Rows(chance)
    rows.load(connection)
    connection.execute(PROBE)
    views, expressions = rows.views(), Expressions(chance)
    differences: list[str] = []
    answered = 0
    for _ in range(0, COUNT, BATCH):
        batch = [expressions.predicate(3) for _ in range(BATCH)]
        statement = sql.SQL(
            "SELECT probe(e) FROM unnest(%s::text[]) WITH ORDINALITY AS x(e, n) ORDER BY n"
        )
        theirs = [row[0] for row in connection.execute(statement, [batch])]
        for text, expected in zip(batch, theirs, strict=True):
            mine = ours(text, views)
            answered += not expected.startswith("error")
            if not agree(mine, expected):
                differences.append(f"{text}\n  postgres: {expected}\n  filters:  {mine}")
    print(f"{answered} of {COUNT} answered, {len(differences)} differ")
    assert not differences, "\n".join(differences[:20])
    # A generator whose filters all fail would compare nothing.
    assert answered > COUNT // 2


def test_examples_of_the_page_mean_the_same_to_postgres(connection: psycopg.Connection) -> None:
    types, rows = documented_rows()
    kinds = [f"{name} {kind}" for name, kind in types.items()]
    columns = ", ".join(kinds).replace(" text,", ' text COLLATE "C",')
    connection.execute(f"CREATE TABLE page (id int4, {columns})".encode())
    places = ", ".join(["%s"] * (len(types) + 1))
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO page VALUES ({places})".encode(), rows)
    for example in documented_examples():
        if example.expected not in OURS_ALONE:
            assert _postgres_keeps(connection, example) == example.expected, example.text


def _postgres_keeps(connection: psycopg.Connection, example: Example) -> list[int] | str:
    """Return the ids that Postgres keeps, or the SQLSTATE of its error."""
    text, params = example.text, example.params or []
    if isinstance(params, dict):
        for number, name in enumerate(params, 1):
            text = text.replace(f":{name}", f"${number}")
        params = list(params.values())
    try:
        with psycopg.RawCursor(connection) as cursor:
            cursor.execute(f"SELECT id FROM page WHERE {text} ORDER BY id".encode(), params)
            return [row[0] for row in cursor.fetchall()]
    except psycopg.Error as error:
        return str(error.sqlstate)


def test_numeric_arithmetic_has_the_scale_that_postgres_gives_it(
    connection: psycopg.Connection,
) -> None:
    chance = random.Random(SEED)
    numbers = [
        f"{chance.randrange(-(10**digits), 10**digits)}e{-chance.randrange(12)}"
        for digits in (1, 2, 4, 5, 8, 12, 20)
        for _ in range(6)
    ]
    terms = [
        f"({chance.choice(numbers)}::numeric {chance.choice('+-*/%')} {divisor})::text"
        for divisor in numbers
        if float(divisor)
    ]
    # Decimal would call these zeros negative.
    terms += ["(-8e-1::numeric % -2e-1)::text", "(-3.5 * 0.0)::text", "(0.0 / -3)::text"]
    terms += ["(-1e-20 / 1e20)::text", "(0.0 % -1)::text", "(-0.0)::text", "(0 - 0.0)::text"]
    terms += ["('-0.0'::numeric)::text", "('-0'::float8::numeric)::text"]
    shown = connection.execute(f"SELECT {', '.join(terms)}".encode()).fetchone()
    assert shown is not None
    for term, expected in zip(terms, shown, strict=True):
        assert ours(f"{term} = '{expected}'", {}) == ours("true", {}), term


def test_what_postgres_fdw_sends_is_understood(
    connection: psycopg.Connection, database18: Database
) -> None:
    """Foreign tables send conditions in the words of postgres_fdw's deparser."""
    chance = random.Random(SEED)
    rows = Rows(chance)
    rows.load(connection)
    connection.execute(PROBE)
    make_foreign_table(connection, database18)
    views, expressions = rows.views(), Expressions(chance)
    sent: list[str] = []
    for _ in range(FDW_COUNT):
        if condition := remote_condition(connection, expressions.predicate(2)):
            sent.append(condition)
    theirs = [
        row[0] for row in connection.execute("SELECT probe(e) FROM unnest(%s::text[]) e", [sent])
    ]
    for condition, expected in zip(sent, theirs, strict=True):
        assert agree(ours(condition, views), expected), condition
    assert len(sent) > FDW_COUNT // 4


def make_foreign_table(connection: psycopg.Connection, database: Database) -> None:
    """Make ``far``, a foreign table over ``fz`` of the same database."""
    where = conninfo_to_dict(database.dsn)
    server = {"host": where["host"], "dbname": database.name}
    options = ", ".join(f"{key} '{value}'" for key, value in server.items())
    columns = ", ".join(f"{name} {kind}" for name, kind in SQL_TYPES.items())
    for statement in (
        "CREATE EXTENSION postgres_fdw",
        f"CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({options})",
        f"CREATE USER MAPPING FOR CURRENT_USER SERVER loopback OPTIONS (user '{where['user']}')",
        f"CREATE FOREIGN TABLE far (id int8, {columns}) SERVER loopback OPTIONS (table_name 'fz')",
    ):
        connection.execute(statement.encode())


def remote_condition(connection: psycopg.Connection, predicate: str) -> str | None:
    """Return the condition that postgres_fdw sends for ``predicate``; None if it sends none."""
    statement = f"EXPLAIN (VERBOSE, FORMAT JSON) SELECT id FROM far WHERE {predicate}"
    try:
        shown = connection.execute(statement.encode()).fetchone()
    except psycopg.Error:
        return None
    assert shown is not None
    remote = shown[0][0]["Plan"].get("Remote SQL", "")
    return remote.partition(" WHERE ")[2] or None
