"""Slots and the replication stream, against real servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from pgsync.connections import connect
from pgsync.errors import ResyncNeeded, SourceError, SourceUnavailable
from pgsync.slots import create_slot, drop_slot, slot_state
from pgsync.walsender import ReplicationStream
from server.demo.postgres import EmbeddedPostgres
from tests.fix_postgres import MAJORS, TEST_SETTINGS, Database
from tests.fix_receiver import wait_until


class Recorder:
    """Takes messages: tags of pgoutput, and the last keepalive."""

    def __init__(self) -> None:
        self.tags = ""
        self.payload_bytes = 0
        self.wal_end = 0

    def feed(self, wal_start: int, payload: bytes | memoryview) -> None:
        self.tags += chr(payload[0])
        self.payload_bytes += len(payload)

    def keepalive(self, wal_end: int) -> None:
        self.wal_end = wal_end


def pump(stream: ReplicationStream, recorder: Recorder, until: Callable[[], bool]) -> None:
    """Read the stream until a condition holds."""
    deadline = time.monotonic() + 30
    while not until():
        assert time.monotonic() < deadline, f"the stream stopped at {recorder.tags[-20:]}"
        if stream.wait(0.05):
            stream.drain(recorder, 1000)


@pytest.fixture
def slot(database: Database) -> tuple[str, int]:
    """Make table, publication and slot; return the slot's name and consistent point."""
    database.execute(
        "CREATE TABLE t (id int8 PRIMARY KEY, v vector(3));"
        "CREATE TABLE other (id int8); CREATE PUBLICATION p FOR TABLE t"
    )
    name = f"slot_{database.name}"
    with create_slot(database.dsn, name) as created:
        point = created.consistent_point
    return name, point


def state_of(database: Database, name: str) -> int:
    with connect(database.dsn) as conn:
        state = slot_state(conn, name)
    assert state is not None
    assert state.confirmed_flush_lsn is not None
    return state.confirmed_flush_lsn


def test_changes_arrive_whole_and_unrelated_work_moves_the_keepalive(
    database: Database, slot: tuple[str, int]
) -> None:
    recorder = Recorder()
    with ReplicationStream.open(database.dsn, slot[0], "p", slot[1]) as stream:
        database.execute("INSERT INTO t VALUES (1, '[1,2,3]')")
        database.execute("UPDATE t SET v = '[3,4,5]'; TRUNCATE t")
        pump(stream, recorder, lambda: recorder.tags.count("C") == 2)
        assert recorder.tags.replace("Y", "").replace("R", "") == "BICBUTC"
        database.execute("INSERT INTO other SELECT generate_series(1, 100)")
        ((now,),) = database.execute("SELECT (pg_current_wal_flush_lsn() - '0/0')::int8")
        assert isinstance(now, int)
        pump(stream, recorder, lambda: recorder.wal_end >= now)


def test_a_large_transaction_is_streamed_before_its_commit(
    database: Database, slot: tuple[str, int]
) -> None:
    recorder = Recorder()
    dsn = psycopg.conninfo.make_conninfo(database.dsn, options="-c logical_decoding_work_mem=64kB")
    with (
        ReplicationStream.open(dsn, slot[0], "p", slot[1]) as stream,
        database.connect() as writer,
        writer.transaction(force_rollback=True),
    ):
        writer.execute("INSERT INTO t SELECT i, '[1,2,3]' FROM generate_series(1, 5000) i")
        database.execute("INSERT INTO t VALUES (-1, '[1,1,1]')")
        pump(stream, recorder, lambda: "S" in recorder.tags and "C" in recorder.tags)
        assert "c" not in recorder.tags


def test_only_a_durable_lsn_is_confirmed(database: Database, slot: tuple[str, int]) -> None:
    name, point = slot
    recorder = Recorder()
    with ReplicationStream.open(database.dsn, name, "p", point) as stream:
        database.execute("INSERT INTO t VALUES (1, '[1,2,3]')")
        pump(stream, recorder, lambda: "C" in recorder.tags)
        for _ in range(3):
            stream.poke()
        pump(stream, recorder, lambda: recorder.wal_end >= stream.received_lsn)
        assert state_of(database, name) == point
        durable = stream.received_lsn
        stream.confirm(durable)
        stream.wait(0.1)
        wait_until(lambda: state_of(database, name) == durable, "the confirmation")
        stream.poke()
        assert stream.confirmed_lsn == durable
    assert state_of(database, name) == durable


def test_closing_tells_postgres_the_last_durable_lsn(
    database: Database, slot: tuple[str, int]
) -> None:
    recorder = Recorder()
    with ReplicationStream.open(database.dsn, slot[0], "p", slot[1]) as stream:
        database.execute("INSERT INTO t VALUES (1, '[1,2,3]')")
        pump(stream, recorder, lambda: "C" in recorder.tags)
        durable = stream.received_lsn
        stream.confirm(durable)
    wait_until(lambda: state_of(database, slot[0]) == durable, "the confirmation")


def test_a_slot_in_use_is_waited_for_then_reported(
    database: Database, slot: tuple[str, int]
) -> None:
    name, point = slot
    first = ReplicationStream.open(database.dsn, name, "p", point)
    with pytest.raises(SourceUnavailable, match="55006"):
        ReplicationStream.open(database.dsn, name, "p", point, busy_retry_s=0.2)
    threading.Timer(0.3, first.close).start()
    ReplicationStream.open(database.dsn, name, "p", point, busy_retry_s=20).close()


def test_a_slot_in_use_is_not_dropped(database: Database, slot: tuple[str, int]) -> None:
    with (
        ReplicationStream.open(database.dsn, *slot[:1], "p", slot[1]),
        connect(database.dsn) as conn,
        pytest.raises(SourceUnavailable, match="55006"),
    ):
        drop_slot(conn, slot[0])


def test_a_missing_slot_needs_a_new_copy(database: Database) -> None:
    with pytest.raises(ResyncNeeded, match="42704"):
        ReplicationStream.open(database.dsn, "no_such_slot", "p", 0)
    with connect(database.dsn) as conn:
        assert slot_state(conn, "no_such_slot") is None
        assert not drop_slot(conn, "no_such_slot")


def test_of_two_that_drop_a_slot_at_once_one_does_and_none_fails(database: Database) -> None:
    name, rounds = f"race_{database.name}", 15

    def drop(conn: psycopg.Connection, start: threading.Barrier) -> bool:
        start.wait(10)
        while True:
            try:
                return drop_slot(conn, name)
            except SourceUnavailable:  # the other one holds it
                continue

    with connect(database.dsn) as one, connect(database.dsn) as other, ThreadPoolExecutor(2) as two:
        for _ in range(rounds):
            create_slot(database.dsn, name).close()
            start = threading.Barrier(2)
            dropped = [two.submit(drop, conn, start) for conn in (one, other)]
            assert sorted(future.result() for future in dropped) == [False, True]


def test_a_slot_of_another_plugin_is_left_alone(database: Database) -> None:
    name = f"foreign_{database.name}"
    with connect(database.dsn) as conn:
        conn.execute("SELECT pg_create_physical_replication_slot(%s)", (name,))
        try:
            with pytest.raises(SourceError, match="choose another slot name"):
                drop_slot(conn, name)
        finally:
            conn.execute("SELECT pg_drop_replication_slot(%s)", (name,))


def test_failover_is_asked_for_where_it_exists(database: Database) -> None:
    with (
        create_slot(database.dsn, f"f_{database.name}", failover=True) as created,
        connect(database.dsn) as conn,
    ):
        state = slot_state(conn, created.name)
    assert state is not None
    assert state.failover == (database.server.major >= 17)


def test_stopping_ends_the_wait_for_running_transactions(database: Database) -> None:
    stop = threading.Event()
    name = f"late_{database.name}"
    with database.connect() as writer, writer.transaction():
        writer.execute("CREATE TABLE in_progress ()")
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(SourceUnavailable, match="stopped"):
            create_slot(database.dsn, name, stop=stop)
    with connect(database.dsn) as conn:
        wait_until(lambda: slot_state(conn, name) is None, "the half-made slot to go")


def test_a_killed_walsender_is_unavailable_not_lost(
    database: Database, slot: tuple[str, int]
) -> None:
    recorder = Recorder()
    with ReplicationStream.open(database.dsn, slot[0], "p", slot[1]) as stream:
        stream.wait(0.1)
        database.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            " WHERE slot_name = %s",
            (slot[0],),
        )
        with pytest.raises(SourceUnavailable):
            pump(stream, recorder, lambda: False)


def test_postgres_stops_fast_while_changes_are_not_durable_yet(
    restartable: EmbeddedPostgres,
) -> None:
    dsn = restartable.dsn()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE t (id int8 PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t")
        with create_slot(dsn, "s") as created:
            point = created.consistent_point
        stream = ReplicationStream.open(dsn, "s", "p", point)
        recorder = Recorder()
        conn.execute("INSERT INTO t VALUES (1)")
        pump(stream, recorder, lambda: "C" in recorder.tags)
        stream.confirm(point)
        conn.execute("INSERT INTO t VALUES (2)")
        pump(stream, recorder, lambda: recorder.tags.count("C") == 2)
    stopped = threading.Event()

    def stop() -> None:
        restartable.stop()
        stopped.set()

    # pg_ctl gives up after a minute; a lagging flush position would take it that long.
    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SourceUnavailable):
        pump(stream, recorder, lambda: False)
    stream.close()
    thread.join(30)
    assert stopped.is_set()


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def forgetful(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """Return a server that keeps no more than a megabyte of log for any slot."""
    settings = {**TEST_SETTINGS, "max_slot_wal_keep_size": "1MB"}
    with EmbeddedPostgres(major=request.param, settings=settings) as server:
        yield server


def test_a_lost_slot_is_known_by_its_state_and_needs_a_new_copy(
    forgetful: EmbeddedPostgres,
) -> None:
    dsn = forgetful.dsn()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "CREATE TABLE t (id int8 PRIMARY KEY, pad text); CREATE PUBLICATION p FOR TABLE t"
        )
        create_slot(dsn, "s").close()
        for _ in range(4):
            conn.execute("SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000000))")
            conn.execute("SELECT pg_switch_wal()")
            conn.execute("CHECKPOINT")
        state = slot_state(conn, "s")
        assert state is not None
        assert state.lost
        with pytest.raises(ResyncNeeded, match="55000"):
            ReplicationStream.open(dsn, "s", "p", 0)
        assert drop_slot(conn, "s")
