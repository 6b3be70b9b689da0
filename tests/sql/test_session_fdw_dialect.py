"""Differential test: conditions in the words of postgres_fdw mean here what they mean to Postgres.

Random predicates go through the deparser of a real postgres_fdw; what it would send is evaluated by
Postgres and by us, once with its literals and once with parameters in their place.
FDW_FUZZ_COUNT sets how many conditions a run compares, FDW_FUZZ_SEED replays a run.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping

import psycopg
from psycopg import sql

from server.columns import ColumnView
from server.filters import FilterError, check_condition
from server.filters.tokens import tokenize
from server.sql.errors import SqlError
from server.sql.expressions import SqlParser
from server.sql.parameters import values_of
from server.sql.types import from_text, type_named
from tests.fix_postgres import Database
from tests.live.test_filters_against_postgres import PROBE, agree, make_foreign_table
from tests.random_filters import COLUMNS, N_ROWS, Expressions, Rows

COUNT = int(os.environ.get("FDW_FUZZ_COUNT", "2000"))
SEED = int(os.environ.get("FDW_FUZZ_SEED", str(random.SystemRandom().randrange(2**32))))
BATCH = 500

#: What postgres_fdw would send for a predicate; empty if nothing, or if Postgres refuses it.
DEPARSE = """
CREATE FUNCTION deparsed(expression text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE shown json;
BEGIN
  EXECUTE 'EXPLAIN (VERBOSE, FORMAT JSON) SELECT id FROM far WHERE (' || expression || ')'
    INTO shown;
  RETURN coalesce(shown->0->'Plan'->>'Remote SQL', '');
EXCEPTION WHEN OTHERS THEN RETURN '';
END $$
"""

_CONSTANT = re.compile(r"(?<![\w$'])'((?:[^'\\]|'')*)'::([a-z0-9 ]+?(?:\[\])?)(?=[^a-z0-9 \[])")


def evaluated(text: str, values: Mapping[int, object], views: dict[str, ColumnView]) -> str:
    """Return the ids that a condition keeps, or its error, in the words of ``probe``."""
    try:
        parser = SqlParser(tokenize(text))
        tree = parser.expression()
        parser.expect_end()
        condition = check_condition(tree, values, COLUMNS)
        kept = condition.evaluate(views.__getitem__, N_ROWS)
    except FilterError as error:
        return f"error {error.sqlstate} {error.message}"
    except SqlError as error:
        return f"error {error.sqlstate} {error.message}"
    return ",".join(str(row) for row in kept.nonzero()[0].tolist())


def with_parameters(text: str) -> tuple[str, Mapping[int, object]]:
    """Return a condition with parameters in the place of its typed literals, and their values."""
    oids: list[int] = []
    found: list[object] = []

    def replace(match: re.Match[str]) -> str:
        known = type_named(match[2])
        if known is None:
            return match[0]
        oids.append(known.oid)
        found.append(from_text(known.oid, match[1].replace("''", "'")))
        return f"${len(oids)}::{match[2]}"

    return _CONSTANT.sub(replace, text), values_of(oids, found, ())


def test_conditions_of_postgres_fdw_mean_what_they_mean_to_postgres(database18: Database) -> None:
    print(f"FDW_FUZZ_SEED={SEED} FDW_FUZZ_COUNT={COUNT}")
    chance = random.Random(SEED)
    rows, expressions = Rows(chance), Expressions(chance)
    compared = answered = parameters = 0
    differences: list[str] = []
    with database18.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows.load(connection)
        connection.execute(PROBE)
        connection.execute(DEPARSE.encode())
        make_foreign_table(connection, database18)
        views = rows.views()
        while compared < COUNT:
            for text, expected in _sent(connection, expressions):
                compared += 1
                answered += not expected.startswith("error")
                changed, values = with_parameters(text)
                parameters += changed != text
                for variant, given in ((text, {}), (changed, values)):
                    mine = evaluated(variant, given, views)
                    if not agree(mine, expected):
                        differences.append(f"{variant}\n  postgres: {expected}\n  here: {mine}")
    print(f"{compared} compared, {parameters} with parameters, {answered} answered")
    assert not differences, "\n".join(differences[:20])
    assert answered > compared // 2
    assert parameters > compared // 10


def _sent(connection: psycopg.Connection, expressions: Expressions) -> list[tuple[str, str]]:
    """Return conditions that postgres_fdw sends, each with what it keeps in Postgres."""
    batch = [expressions.predicate(2) for _ in range(BATCH)]
    ask = sql.SQL("SELECT deparsed(e) FROM unnest(%s::text[]) AS e")
    shown = [row[0] for row in connection.execute(ask, [batch])]
    conditions = [text.partition(" WHERE ")[2] for text in shown if " WHERE " in text]
    probe = sql.SQL("SELECT probe(e) FROM unnest(%s::text[]) WITH ORDINALITY AS x(e, n) ORDER BY n")
    kept = [row[0] for row in connection.execute(probe, [conditions])]
    return list(zip(conditions, kept, strict=True))
