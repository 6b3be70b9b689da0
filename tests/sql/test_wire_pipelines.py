"""The statements of an extended query up to its Sync are one transaction, as in Postgres 18."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Iterator, Sequence
from contextlib import closing

import asyncpg
import psycopg
import pytest
from psycopg import pq

from pgsync.changes import Op
from tests.change_batches import Change
from tests.fix_postgres import Database
from tests.fix_sql_session import Desk, desk, literal
from tests.fix_sql_wire import WireServer, sql_settings

COUNT = "SELECT count(*) FROM items"
NAME = "SELECT current_setting('application_name')"


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk(tmp_path_factory.mktemp("pipelines"), 12) as made:
        yield made


@pytest.fixture(scope="module")
def port(items: Desk) -> Iterator[WireServer]:
    server = WireServer(sql_settings(), open_session=items.sessions.open)
    yield server
    server.stop()


@pytest.fixture
def ours(port: WireServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(port.dsn(), autocommit=True, application_name="first") as conn:
        yield conn


@pytest.fixture
def theirs(database18: Database) -> Iterator[psycopg.Connection]:
    with closing(psycopg.connect(database18.dsn, autocommit=True)) as conn:
        conn.execute("CREATE TABLE items (id bigint PRIMARY KEY)")
        conn.execute("INSERT INTO items SELECT generate_series(0, 11)")
        conn.execute("SET application_name = 'first'")
        yield conn


def piped(conn: psycopg.Connection, *requests: Sequence[str]) -> list[object]:
    """Send the statements of each request with one Sync behind; return tags, rows or SQLSTATEs."""
    libpq = conn.pgconn
    libpq.enter_pipeline_mode()
    for statements in requests:
        for text in statements:
            libpq.send_query_params(text.encode(), None)
        libpq.pipeline_sync()
    libpq.flush()
    said: list[object] = []
    while said.count("sync") < len(requests):
        while libpq.is_busy():
            select.select([libpq.socket], [], [], 10)
            libpq.consume_input()
        result = libpq.get_result()
        if result is not None:
            said.append(_said(result))
    said.append(pq.TransactionStatus(libpq.transaction_status).name)
    libpq.exit_pipeline_mode()
    return said


def _said(result: pq.abc.PGresult) -> object:
    match pq.ExecStatus(result.status):
        case pq.ExecStatus.PIPELINE_SYNC:
            return "sync"
        case pq.ExecStatus.PIPELINE_ABORTED:
            return "skipped"
        case pq.ExecStatus.FATAL_ERROR:
            return result.error_field(pq.DiagnosticField.SQLSTATE)
    rows = [result.get_value(row, 0) for row in range(result.ntuples)]
    return result.command_status, rows


DECLARE = "DECLARE c CURSOR FOR SELECT id FROM items ORDER BY id"
SCRIPTS: list[list[list[str]]] = [
    # A failed statement takes back what those before it did.
    [["SET application_name = 'other'", "SELECT 1/0", "SELECT 2"], [NAME]],
    [["SET application_name = 'other'", NAME], ["SELECT 1/0"], [NAME]],
    [["SET application_name = 'other'", "SELECT nonsense"], [NAME]],
    # To the first of them there is no transaction block, to the next there is.
    [[DECLARE, "FETCH 2 FROM c"], [NAME]],
    [["SELECT 1", DECLARE, "FETCH 2 FROM c"], ["FETCH 1 FROM c"]],
    [["SET LOCAL application_name = 'local'", NAME], [NAME]],
    [["SELECT 1", "SET LOCAL application_name = 'local'", NAME], [NAME]],
    # BEGIN takes those before it into its block, COMMIT and ROLLBACK end it in the middle.
    [["SET application_name = 'other'", "BEGIN", "SELECT 1/0"], ["ROLLBACK"], [NAME]],
    [["SET application_name = 'other'", "COMMIT", "SELECT 1/0"], [NAME]],
    [["SET application_name = 'other'", "ROLLBACK", NAME], [NAME]],
    [["BEGIN", "SET application_name = 'other'", "COMMIT", "SELECT 1/0"], [NAME]],
    [["BEGIN", DECLARE, "FETCH 3 FROM c"], ["FETCH 2 FROM c", "CLOSE c", "COMMIT"], [NAME]],
    [["SELECT 1", "SAVEPOINT s"], [NAME]],
]


@pytest.mark.parametrize("script", SCRIPTS, ids=["; ".join(one[0]) for one in SCRIPTS])
def test_a_pipeline_is_one_transaction_as_in_postgres(
    ours: psycopg.Connection, theirs: psycopg.Connection, script: list[list[str]]
) -> None:
    assert piped(ours, *script) == piped(theirs, *script)


def test_the_searches_of_a_pipeline_see_one_version_of_the_index(
    items: Desk, ours: psycopg.Connection
) -> None:
    vector = items.vectors[0]
    search = f"SELECT id FROM items WHERE query = {literal(vector)} AND k = 40"
    with ours.pipeline() as pipeline:
        before = len(ours.execute(search.encode()).fetchall())
        row = items.rows[0]
        change = Change(Op.UPSERT, 900, vector=tuple(vector.tolist()), columns=_columns(row))
        items.change(items.mirror.state.applied_lsn + 100, [change])
        assert ours.execute(COUNT).fetchone() == (before,)
        assert len(ours.execute(search.encode()).fetchall()) == before
        pipeline.sync()
        assert ours.execute(COUNT).fetchone() == (before + 1,)


def test_a_pipelined_search_for_more_than_its_transaction_sees_is_an_error(
    items: Desk, ours: psycopg.Connection
) -> None:
    newer = f"{COUNT} WHERE min_lsn = '0/FFFFFFF'"
    said = piped(ours, [COUNT, newer, COUNT], [COUNT])
    assert said[1:3] == [b"40001", "skipped"]
    assert isinstance(said[-2], str)


def test_what_asyncpg_executes_many_times_is_done_or_not_done(port: WireServer) -> None:
    async def talk() -> tuple[str, str]:
        conn = await asyncpg.connect(
            host="127.0.0.1", port=port.port, user="me", database="vecmirror", password="x"
        )
        name = "SELECT current_setting('application_name')"
        values = [("application_name", "many"), ("statement_timeout", "nonsense")]
        with pytest.raises(asyncpg.PostgresError):
            await conn.executemany("SELECT set_config($1, $2, false)", values)
        undone = await conn.fetchval(name)
        await conn.executemany("SELECT set_config($1, $2, false)", values[:1])
        done = await conn.fetchval(name)
        await conn.close()
        return undone, done

    undone, done = asyncio.run(talk())
    assert (undone, done) == ("", "many")


def _columns(row: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if name != "id"}
