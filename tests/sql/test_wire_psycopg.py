"""psycopg 3 and psycopg2 against the port: text, binary, prepared, pipelined, in transactions."""

from __future__ import annotations

import datetime
import threading
import time
import uuid
from collections.abc import Iterator
from decimal import Decimal

import psycopg
import psycopg2
import pytest
from psycopg import errors, sql

from tests.fix_sql_wire import StartWire, WireServer

UTC = datetime.UTC
IDENTITY = uuid.UUID("8d9b8e8c-0c3e-4c1b-9a50-3f8f2f4f7a11")

#: Values of Python and the type each travels as.
VALUES = [
    (True, "bool"),
    (-32768, "int2"),
    (2**31 - 1, "int4"),
    (-(2**63), "int8"),
    (0.5, "float4"),
    (1 / 3, "float8"),
    (float("inf"), "float8"),
    (Decimal("-12345678901234567890.00012300"), "numeric"),
    ("naïve ' \\ 日本", "text"),
    ("", "text"),
    (IDENTITY, "uuid"),
    (datetime.date(2026, 11, 22), "date"),
    (datetime.datetime(1, 1, 1, 0, 0, 0, 1), "timestamp"),
    (datetime.datetime(2026, 11, 22, 17, 5, 1, 250000, UTC), "timestamptz"),
    ([1, None, 3], "int8[]"),
    ([], "text[]"),
    (["a b", 'q"\\', "NULL", None], "text[]"),
    ([IDENTITY], "uuid[]"),
    ([0.1, -1e300], "float8[]"),
    (None, "text"),
]


@pytest.fixture
def server(wire_server: StartWire) -> WireServer:
    return wire_server()


@pytest.fixture
def conn(server: WireServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        yield conn


def _status(conn: psycopg.Connection) -> str:
    return conn.info.transaction_status.name


def _cast(kind: str) -> sql.Composed:
    return sql.SQL("SELECT %s::{}").format(sql.SQL(kind))


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize(("value", "kind"), VALUES, ids=lambda part: str(part)[:20])
def test_values_come_back_as_they_went(
    conn: psycopg.Connection, value: object, kind: str, *, binary: bool
) -> None:
    placeholder = "%b" if binary else "%t"
    text = _cast(kind).as_string().replace("%s", placeholder)
    cursor = conn.execute(text.encode(), [value], binary=binary)
    assert cursor.fetchone() == (value,)


def test_a_statement_is_prepared_after_some_runs_and_runs_on(
    conn: psycopg.Connection, server: WireServer
) -> None:
    for number in range(10):
        assert conn.execute("SELECT %s::int4", [number]).fetchone() == (number,)
    conn.prepared_max = 1
    for text in (b"SELECT %s::int8", b"SELECT %s::text"):  # the first ones are evicted
        for _ in range(7):
            conn.execute(text, ["1"])
    assert conn.execute("SELECT %s::int4", [3]).fetchone() == (3,)


def test_a_pipeline_is_answered_in_order(conn: psycopg.Connection) -> None:
    with conn.pipeline() as pipeline:
        cursors = [conn.execute("SELECT %s::int4", [n]) for n in range(300)]
        pipeline.sync()
        assert [cursor.fetchone() for cursor in cursors] == [(n,) for n in range(300)]


def test_an_error_in_a_pipeline_skips_to_the_sync(conn: psycopg.Connection) -> None:
    def ask() -> None:
        with conn.pipeline():
            conn.execute("FAIL")
            conn.execute("SELECT numbers(1)")

    with pytest.raises(errors.DivisionByZero):
        ask()
    assert conn.execute("SELECT numbers(1)").fetchall() == [(0,)]


def test_transactions_follow_the_state_that_is_told(conn: psycopg.Connection) -> None:
    with pytest.raises(errors.DivisionByZero), conn.transaction():
        conn.execute("FAIL")
    assert _status(conn) == "IDLE"
    conn.execute("BEGIN")
    with pytest.raises(errors.DivisionByZero):
        conn.execute("FAIL")
    assert _status(conn) == "INERROR"
    with pytest.raises(errors.InFailedSqlTransaction):
        conn.execute("SELECT numbers(1)")
    conn.execute("ROLLBACK")


def test_rows_stream_to_a_client_that_takes_one_at_a_time(conn: psycopg.Connection) -> None:
    cursor = conn.cursor()
    seen = 0
    for (number,) in cursor.stream("SELECT numbers(20000)"):
        assert number == seen
        seen += 1
    assert seen == 20_000


def test_rows_come_in_chunks_of_any_size(conn: psycopg.Connection) -> None:
    cursor = conn.cursor()
    rows = [row[0] for row in cursor.stream("SELECT numbers(1003)", size=100)]
    assert rows == list(range(1003))


def test_an_error_says_where_and_what_to_do(conn: psycopg.Connection) -> None:
    with pytest.raises(errors.DivisionByZero) as caught:
        conn.execute("FAIL")
    diag = caught.value.diag
    assert (diag.sqlstate, diag.message_primary) == ("22012", "division by zero")
    assert (diag.message_hint, diag.statement_position) == ("do not", "6")


def test_notices_reach_the_client(conn: psycopg.Connection) -> None:
    seen: list[str | None] = []
    conn.add_notice_handler(lambda diag: seen.append(diag.message_primary))
    conn.execute("NOTE")
    assert seen == ["look here"]


def test_a_statement_can_be_cancelled_from_another_thread(
    conn: psycopg.Connection, server: WireServer
) -> None:
    def cancel() -> None:
        while "SLEEP 60" not in server.log:
            time.sleep(0.002)
        conn.cancel_safe(timeout=10)

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(errors.QueryCanceled):
        conn.execute("SLEEP 60")
    thread.join()
    assert conn.execute("SELECT numbers(1)").fetchall() == [(0,)]


@pytest.mark.parametrize("newest", ["3.0", "3.2", "latest"])
def test_libpq_agrees_on_every_version(server: WireServer, newest: str) -> None:
    if psycopg.pq.version() < 180000:
        pytest.skip("libpq before 18 speaks 3.0 only")
    dsn = server.dsn(min_protocol_version="3.0", max_protocol_version=newest)
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT numbers(1)").fetchall() == [(0,)]
        conn.cancel_safe(timeout=10)


def test_psycopg2_works_in_its_transactions(server: WireServer) -> None:
    conn = psycopg2.connect(server.dsn())
    try:
        with conn, conn.cursor() as cursor:
            cursor.execute("SELECT numbers(3)")
            assert cursor.fetchall() == [(0,), (1,), (2,)]
        with pytest.raises(psycopg2.errors.DivisionByZero), conn, conn.cursor() as cursor:
            cursor.execute("FAIL")
        with conn, conn.cursor() as cursor:
            cursor.execute("SELECT 'a b'::text, '{1,2}'::int4[], '2026-01-02'::date")
            assert cursor.fetchone() == ("a b", [1, 2], datetime.date(2026, 1, 2))
    finally:
        conn.close()
    assert [text for text in server.log if text in ("BEGIN", "COMMIT", "ROLLBACK")] == [
        "BEGIN",
        "COMMIT",
        "BEGIN",
        "ROLLBACK",
        "BEGIN",
        "COMMIT",
    ]
