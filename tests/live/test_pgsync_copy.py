"""The copy under a slot's snapshot, against real servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest

from pgsync import copy
from pgsync.changes import VectorState
from pgsync.connections import connect
from pgsync.copy import CopyRequest, PageRange, TableCopy, page_ranges
from pgsync.errors import SourceError
from pgsync.inspection import inspect_table
from pgsync.slots import create_slot
from pgsync.table import TableSpec
from tests.fix_postgres import Database


def table_of(database: Database, name: str = "t", *columns: str) -> TableSpec:
    with connect(database.dsn) as conn:
        return inspect_table(conn, "public", name, "v", columns)


@contextmanager
def copying(database: Database, table: TableSpec, **options: object) -> Iterator[TableCopy]:
    """Open a copy of a table under the snapshot of a temporary slot."""
    with create_slot(database.dsn, f"copy_{database.name}", temporary=True) as slot:
        request = CopyRequest(
            dsn=database.dsn,
            table=table,
            snapshot=slot.snapshot,
            consistent_point=slot.consistent_point,
            system_id="7",
            epoch=4,
        )
        with TableCopy(replace(request, **options)) as running:  # type: ignore[arg-type]
            yield running


def rows_of(running: TableCopy) -> list[dict[str, object]]:
    return [row for batch in running.batches() for row in batch.rows.to_pylist()]


@pytest.mark.parametrize("pages", [0, 1, 7, 8, 9, 100])
def test_ranges_cover_all_pages_once_and_the_last_is_open(pages: int) -> None:
    ranges = page_ranges(pages, 8)
    assert ranges[0].first == 0
    assert [r.end for r in ranges[:-1]] == [r.first for r in ranges[1:]]
    assert ranges[-1].end is None
    assert len(ranges) == max(1, -(-pages // 8))


def test_the_copy_is_the_table_at_the_consistent_point(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "RANGE_BYTES", 64 << 10)
    monkeypatch.setattr(copy, "MAX_BATCH_ROWS", 700)
    database.execute(
        "CREATE TABLE t (id int8 PRIMARY KEY, v vector(3), name text);"
        "INSERT INTO t SELECT i, ARRAY[i, 1, 2]::real[]::vector, 'n' || i"
        " FROM generate_series(1, 5000) i; ANALYZE t"
    )
    table = table_of(database, "t", "name")
    with copying(database, table, workers=3) as running:
        # All of this commits after the snapshot: the stream will bring it.
        database.execute("DELETE FROM t WHERE id % 2 = 0; UPDATE t SET name = 'later'")
        database.execute("INSERT INTO t SELECT i, '[0,0,0]' FROM generate_series(9000, 12000) i")
        batches = list(running.batches())
    rows = [row for batch in batches for row in batch.rows.to_pylist()]
    assert {row["key:id"]: row["vector"][0] for row in rows} == {
        number: float(number) for number in range(1, 5001)
    }
    assert {row["col:name"] for row in rows} == {f"n{number}" for number in range(1, 5001)}
    assert [row["ordinal"] for row in rows] == list(range(5000))
    assert {row["commit_lsn"] for row in rows} == {batches[0].watermark_lsn}
    assert all(batch.rows.num_rows <= 700 for batch in batches)
    assert all((batch.epoch, batch.rows_total) == (4, 5000) for batch in batches)


def test_rows_without_a_valid_vector_are_copied_with_the_reason(database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int8 PRIMARY KEY, v float4[]);"
        "INSERT INTO t VALUES (1, '{1,2}'), (2, '{3,4}'), (3, NULL), (4, '{1}'), (5, '{1,NaN}')"
    )
    with copying(database, table_of(database)) as running:
        states = {row["key:id"]: row["vector_state"] for row in rows_of(running)}
    assert states == {
        1: VectorState.PRESENT,
        2: VectorState.PRESENT,
        3: VectorState.NULL,
        4: VectorState.WRONG_DIMENSION,
        5: VectorState.NOT_FINITE,
    }


def test_an_empty_table_has_no_batches(database: Database) -> None:
    database.execute("CREATE TABLE t (id int8 PRIMARY KEY, v vector(2))")
    with copying(database, table_of(database)) as running:
        assert list(running.batches()) == []


def test_partitions_are_copied_and_inheriting_tables_are_not(database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int8 PRIMARY KEY, v vector(2)) PARTITION BY RANGE (id);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20);"
        "INSERT INTO t SELECT i, '[1,2]' FROM generate_series(0, 19) i;"
        "CREATE TABLE parent (id int8 PRIMARY KEY, v vector(2));"
        "CREATE TABLE child () INHERITS (parent);"
        "INSERT INTO parent VALUES (1, '[1,1]'); INSERT INTO child VALUES (2, '[1,1]')"
    )
    with copying(database, table_of(database)) as running:
        assert sorted(row["key:id"] for row in rows_of(running)) == list(range(20))  # type: ignore[type-var]
    with copying(database, table_of(database, "parent")) as running:
        assert [row["key:id"] for row in rows_of(running)] == [1]


def test_a_row_filter_restricts_the_copy(database: Database) -> None:
    database.execute(
        "CREATE TABLE t (id int8 PRIMARY KEY, v vector(2), city text);"
        "INSERT INTO t VALUES (1, '[1,1]', 'Oslo'), (2, '[1,1]', 'Bern'), (3, '[1,1]', '50%s')"
    )
    where = "((city = 'Oslo'::text) OR (city ~~ '50%'::text))"
    with copying(database, table_of(database), row_filter=where) as running:
        assert sorted(row["key:id"] for row in rows_of(running)) == [1, 3]  # type: ignore[type-var]


def test_row_security_never_hides_rows_from_a_copy(database: Database) -> None:
    role = f"reader_{database.name}"
    database.execute(
        "CREATE TABLE t (id int8 PRIMARY KEY, v vector(2), owner text);"
        "INSERT INTO t VALUES (1, '[1,1]', 'a'); ALTER TABLE t ENABLE ROW LEVEL SECURITY;"
        f"CREATE ROLE {role} LOGIN REPLICATION; GRANT SELECT ON t TO {role}"
    )
    table = table_of(database)
    restricted = psycopg.conninfo.make_conninfo(database.dsn, user=role)
    try:
        with (
            pytest.raises(SourceError, match="row-level security"),
            copying(database, table, dsn=restricted) as running,
        ):
            list(running.batches())
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_closing_a_copy_half_way_leaves_nothing_running(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "MAX_BATCH_ROWS", 50)
    database.execute(
        "CREATE TABLE t (id int8 PRIMARY KEY, v vector(3));"
        "INSERT INTO t SELECT i, '[1,2,3]' FROM generate_series(1, 20000) i"
    )
    with copying(database, table_of(database)) as running:
        batches = running.batches()
        assert next(batches).rows.num_rows == 50
    left = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND query LIKE 'COPY%' AND state = 'active'"
    )
    assert left == [(0,)]
    assert running._threads
    assert not any(thread.is_alive() for thread in running._threads)


def test_the_first_range_of_a_table_starts_at_its_first_page() -> None:
    assert page_ranges(0, 8) == [PageRange(0, None)]
