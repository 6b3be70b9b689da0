"""What tables look like, and why some cannot be mirrored, asked of real servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from pgsync.connections import connect
from pgsync.errors import SourceError
from pgsync.inspection import Target, inspect_table, parse_target
from pgsync.table import ColumnSpec, TableSpec
from server.demo.postgres import EmbeddedPostgres
from tests.fix_postgres import Database, fresh_database

Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture(scope="module")
def shared(postgres: EmbeddedPostgres) -> Iterator[Database]:
    with fresh_database(postgres) as created:
        yield created


@pytest.fixture
def conn(shared: Database) -> Iterator[Connection]:
    """Return a connection in a transaction that is rolled back at the end."""
    with closing(connect(shared.dsn)) as opened, opened.transaction(force_rollback=True):
        yield opened


def run(conn: Connection, statements: str) -> None:
    conn.execute(statements.encode())


def inspect(conn: Connection, *columns: str, dim: int | None = None) -> TableSpec:
    return inspect_table(conn, "public", "t", "v", columns, dim=dim)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("docs.v", Target("public", "docs", "v")),
        ("Shop.Docs.V", Target("shop", "docs", "v")),
        ('"Shop"."a.b"."say ""v"""', Target("Shop", "a.b", 'say "v"')),
        ("größe._x.v$1", Target("größe", "_x", "v$1")),
    ],
)
def test_targets_follow_the_quoting_and_case_rules_of_postgres(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize("text", ["", "docs", "a.b.c.d", "a..c", '"a.b', "a.b.", ".a.b", "a b.c"])
def test_other_targets_are_refused(text: str) -> None:
    with pytest.raises(SourceError):
        parse_target(text)


def test_a_table_is_described_with_its_key_in_key_order(conn: Connection) -> None:
    run(
        conn,
        "CREATE DOMAIN label AS varchar(20);"
        "CREATE TABLE t (a int4, b uuid, c text, v halfvec(5), tags text[], name label,"
        " at timestamptz, PRIMARY KEY (c, a))",
    )
    spec = inspect(conn, "tags", "name", "at", "b")
    assert (spec.schema, spec.table, spec.vector_type, spec.dim) == ("public", "t", "halfvec", 5)
    assert spec.key == (ColumnSpec("c", "text"), ColumnSpec("a", "int4"))
    assert spec.columns == (
        ColumnSpec("tags", "text[]"),
        ColumnSpec("name", "text"),
        ColumnSpec("at", "timestamptz"),
        ColumnSpec("b", "uuid"),
    )
    assert spec.relation_id == conn.execute("SELECT 't'::regclass::oid::int8").fetchall()[0][0]


def test_the_replica_identity_index_is_the_key_before_the_primary_key(conn: Connection) -> None:
    run(
        conn,
        "CREATE TABLE t (id int8 PRIMARY KEY, code text NOT NULL, v vector(2));"
        "CREATE UNIQUE INDEX t_code ON t (code) INCLUDE (id);"
        "ALTER TABLE t REPLICA IDENTITY USING INDEX t_code",
    )
    assert inspect(conn).key == (ColumnSpec("code", "text"),)
    run(conn, "ALTER TABLE t REPLICA IDENTITY FULL")
    assert inspect(conn).key == (ColumnSpec("id", "int8"),)


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("vector", "'[1,2,3]'", "vector"),
        ("halfvec", "'[1,2,3]'", "halfvec"),
        ("sparsevec", "'{1:1}/3'", "sparsevec"),
        ("float4[]", "'{1,2,3}'", "float4[]"),
        ("float8[]", "'{1,2,3}'", "float8[]"),
    ],
)
def test_without_a_declared_dimension_most_rows_decide(
    conn: Connection, column: str, value: str, kind: str
) -> None:
    run(conn, f"CREATE TABLE t (id int8 PRIMARY KEY, v {column})")
    with pytest.raises(SourceError, match="dim"):
        inspect(conn)
    assert inspect(conn, dim=9).dim == 9
    run(conn, f"INSERT INTO t SELECT i, {value} FROM generate_series(1, 5) i")
    odd = {"sparsevec": "'{1:1}/2'"}.get(kind, "'[1,2]'" if "vec" in kind else "'{1,2}'")
    run(conn, f"INSERT INTO t VALUES (6, {odd}), (7, NULL), (8, {odd})")
    spec = inspect(conn)
    assert (spec.dim, spec.vector_type) == (3, kind)


def test_pgvector_in_another_schema_is_found(conn: Connection) -> None:
    run(
        conn,
        "CREATE SCHEMA extra; ALTER EXTENSION vector SET SCHEMA extra;"
        "CREATE TABLE t (id int8 PRIMARY KEY, v extra.vector); INSERT INTO t VALUES (1, '[1,2]')",
    )
    assert inspect(conn).dim == 2


@pytest.mark.parametrize(
    ("setup", "mend"),
    [
        ("SELECT 1", "no table public.t"),
        ("CREATE TABLE t (id int8, v vector(2))", 'ALTER TABLE "public"."t" ADD PRIMARY KEY'),
        (
            "CREATE TABLE t (id int8 PRIMARY KEY DEFERRABLE, v vector(2))",
            "not deferrable",
        ),
        (
            "CREATE TABLE t (id int8 PRIMARY KEY, v vector(2));"
            "ALTER TABLE t REPLICA IDENTITY NOTHING",
            'ALTER TABLE "public"."t" REPLICA IDENTITY DEFAULT',
        ),
        ("CREATE TABLE t (id numeric PRIMARY KEY, v vector(2))", "REPLICA IDENTITY USING INDEX"),
        ("CREATE TABLE t (id int8 PRIMARY KEY, w vector(2))", "has no column v"),
        ("CREATE TABLE t (id int8 PRIMARY KEY, v text)", "has type text"),
        ("CREATE TABLE t (id int8 PRIMARY KEY, v sparsevec(20000))", "1 to 16000"),
        ("CREATE UNLOGGED TABLE t (id int8 PRIMARY KEY, v vector(2))", "SET LOGGED"),
        ("CREATE VIEW t AS SELECT 1 AS id, '[1]'::vector AS v", "is a view"),
        ("CREATE MATERIALIZED VIEW t AS SELECT 1 AS id, '[1]'::vector AS v", "materialized"),
    ],
)
def test_what_cannot_be_mirrored_is_refused_with_the_mend(
    conn: Connection, setup: str, mend: str
) -> None:
    run(conn, setup)
    with pytest.raises(SourceError) as caught:
        inspect(conn)
    assert mend in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "mend"),
    [
        ("numeric(10,2)", "float8"),
        ("jsonb", "columns of their own"),
        ("mood", "label as text"),
        ("interval", "microseconds"),
        ("bytea", "leave it out"),
    ],
)
def test_filter_columns_of_other_types_are_refused_with_the_mend(
    conn: Connection, declared: str, mend: str
) -> None:
    run(
        conn,
        "CREATE TYPE mood AS ENUM ('happy');"
        f"CREATE TABLE t (id int8 PRIMARY KEY, v vector(2), c {declared})",
    )
    with pytest.raises(SourceError) as caught:
        inspect(conn, "c")
    assert mend in str(caught.value)


def test_generated_columns_are_mirrored_from_18_on(conn: Connection) -> None:
    run(
        conn,
        "CREATE TABLE t (id int8 PRIMARY KEY, v vector(2), n int4,"
        " twice int4 GENERATED ALWAYS AS (n * 2) STORED)",
    )
    if conn.info.server_version >= 18_00_00:
        assert inspect(conn, "twice").columns == (ColumnSpec("twice", "int4"),)
    else:
        with pytest.raises(SourceError, match="version 18"):
            inspect(conn, "twice")
