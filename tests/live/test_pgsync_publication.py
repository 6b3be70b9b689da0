"""Publications must carry what is mirrored and never make the application's statements fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from pgsync.connections import connect
from pgsync.errors import SourceError
from pgsync.inspection import inspect_table
from pgsync.publication import (
    check_application_writes,
    check_publication,
    create_publication,
    drop_publication,
    publication_state,
)
from pgsync.table import TableSpec
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


@pytest.fixture
def table(conn: Connection) -> TableSpec:
    conn.execute(
        "CREATE TABLE t (id int8 PRIMARY KEY, v vector(2), city text, note text);"
        "INSERT INTO t VALUES (1, '[1,2]', 'Oslo', 'x'), (2, '[2,3]', 'Bern', 'y')"
    )
    return inspect_table(conn, "public", "t", "v", ["city"])


def writes(conn: Connection) -> None:
    conn.execute("UPDATE t SET note = 'changed', id = id + 100 WHERE id = 1")
    conn.execute("DELETE FROM t WHERE id = 2")


def test_the_column_list_names_the_mirrored_columns(conn: Connection, table: TableSpec) -> None:
    create_publication(conn, "p", table)
    state = check_publication(conn, "p", table)
    assert sorted(state.columns) == ["city", "id", "v"]
    writes(conn)


def test_under_full_identity_there_is_no_column_list(conn: Connection, table: TableSpec) -> None:
    conn.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    statement = create_publication(conn, "p", table)
    assert "note" in check_publication(conn, "p", table).columns
    assert statement == 'CREATE PUBLICATION "p" FOR TABLE ONLY "public"."t"'
    writes(conn)


def test_a_row_filter_needs_full_identity_for_vectors_that_may_be_toasted(
    conn: Connection, table: TableSpec
) -> None:
    with pytest.raises(SourceError, match="REPLICA IDENTITY FULL"):
        create_publication(conn, "p", table, row_filter="id > 0")
    assert publication_state(conn, "p", table.relation_id) is None
    conn.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    create_publication(conn, "p", table, row_filter="city = 'Oslo'")
    assert "Oslo" in (check_publication(conn, "p", table).row_filter or "")
    writes(conn)


def test_a_row_filter_that_would_break_updates_is_taken_back(
    conn: Connection, table: TableSpec
) -> None:
    conn.execute("ALTER TABLE t ALTER v SET STORAGE PLAIN")
    with pytest.raises(SourceError, match="UPDATE and DELETE fail"):
        create_publication(conn, "p", table, row_filter="city = 'Oslo'")
    assert publication_state(conn, "p", table.relation_id) is None
    create_publication(conn, "p", table, row_filter="id > 0")
    writes(conn)


def test_a_foreign_hand_that_breaks_updates_is_noticed(conn: Connection, table: TableSpec) -> None:
    create_publication(conn, "p", table)
    check_application_writes(conn, table)
    conn.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    with pytest.raises(psycopg.errors.InvalidColumnReference), conn.transaction():
        conn.execute("DELETE FROM t WHERE id = 2")
    with pytest.raises(SourceError, match="UPDATE and DELETE fail"):
        check_application_writes(conn, table)


def test_missing_and_emptied_publications_are_reported_with_the_mend(
    conn: Connection, table: TableSpec
) -> None:
    with pytest.raises(SourceError, match="CREATE PUBLICATION"):
        check_publication(conn, "p", table)
    create_publication(conn, "p", table)
    conn.execute("ALTER PUBLICATION p DROP TABLE t")
    with pytest.raises(SourceError, match=r'ALTER PUBLICATION "p" ADD TABLE "public"."t"'):
        check_publication(conn, "p", table)
    conn.execute("ALTER PUBLICATION p SET TABLE t (id, v)")
    with pytest.raises(SourceError, match="does not carry the columns city"):
        check_publication(conn, "p", table)
    conn.execute("ALTER PUBLICATION p SET TABLE t; ALTER PUBLICATION p SET (publish = insert)")
    with pytest.raises(SourceError, match="leaves out some operations"):
        check_publication(conn, "p", table)
    drop_publication(conn, "p")
    drop_publication(conn, "p")
    assert publication_state(conn, "p", table.relation_id) is None


def test_a_publication_of_all_tables_will_do(conn: Connection, table: TableSpec) -> None:
    conn.execute("CREATE PUBLICATION p FOR ALL TABLES")
    assert check_publication(conn, "p", table).has_table


def test_a_partitioned_table_is_published_as_its_root(conn: Connection) -> None:
    conn.execute(
        "CREATE TABLE parted (id int8 PRIMARY KEY, v vector(2)) PARTITION BY RANGE (id);"
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10)"
    )
    table = inspect_table(conn, "public", "parted", "v", [])
    create_publication(conn, "p", table)
    assert check_publication(conn, "p", table).via_root


def test_only_the_owner_can_publish(conn: Connection, table: TableSpec) -> None:
    conn.execute("CREATE ROLE stranger; SET LOCAL ROLE stranger")
    with pytest.raises(SourceError, match="42501"):
        create_publication(conn, "p", table)
