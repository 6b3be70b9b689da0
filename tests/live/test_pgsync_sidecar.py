"""The sidecar between a real Postgres and a plain receiver: whatever happens, both end up equal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pgsync import planning, session
from pgsync.changes import BatchKind, VectorState
from pgsync.connections import connect
from pgsync.inspection import inspect_table
from pgsync.publication import create_publication
from pgsync.sidecar import SidecarConfig, run
from pgsync.slots import SlotState, slot_state
from server.demo.postgres import EmbeddedPostgres
from tests.fix_postgres import Database
from tests.fix_receiver import ReceivedIndex, Receiver, wait_until


class Sidecar:
    """``run`` in a thread, with the events it told."""

    def __init__(self, dsn: str, server: str, **options: Any) -> None:
        self.events: list[tuple[str, Mapping[str, object]]] = []
        self._stop = threading.Event()
        config = SidecarConfig(
            dsn=dsn,
            server=server,
            poll_interval_s=0.1,
            on_event=lambda event, fields: self.events.append((event, fields)),
            **options,
        )
        self._thread = threading.Thread(target=run, args=(config, self._stop))
        self._thread.start()

    def told(self, event: str) -> list[Mapping[str, object]]:
        return [fields for told, fields in list(self.events) if told == event]

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


class Stage:
    """A table ``t`` (id, v, city), its publication, its index in the receiver, and a sidecar."""

    def __init__(self, database: Database, receiver: Receiver) -> None:
        self.database, self.receiver = database, receiver
        self.execute = database.execute
        self.sidecars: list[Sidecar] = []

    def attach(self, vector: str = "vector(3)", **publication: Any) -> ReceivedIndex:
        self.execute(f"CREATE TABLE t (id int8 PRIMARY KEY, v {vector}, city text)")
        if publication:
            self.execute("ALTER TABLE t REPLICA IDENTITY FULL")
        with connect(self.database.dsn) as conn:
            table = inspect_table(conn, "public", "t", "v", ["city"])
            create_publication(conn, "mirror", table, **publication)
        slot = f"mirror_{self.database.name}"
        self.index = self.receiver.add("t", table, publication="mirror", slot=slot)
        return self.index

    def start(self, **options: Any) -> Sidecar:
        sidecar = Sidecar(self.database.dsn, self.receiver.url, **options)
        self.sidecars.append(sidecar)
        return sidecar

    def slot(self) -> SlotState | None:
        with connect(self.database.dsn) as conn:
            return slot_state(conn, self.index.slot)

    def expect_equal(self, copies: int | None = None) -> None:
        """Wait until the index holds what is committed now, then compare everything."""
        if copies is not None:
            wait_until(lambda: self.index.copies >= copies, "the next copy")
        ((now,),) = self.execute("SELECT (pg_current_wal_flush_lsn() - '0/0')::int8")

        def caught_up() -> bool:
            with self.receiver.lock:
                index = self.index
                return index.phase == "live" and index.watermark_lsn >= now  # type: ignore[operator]

        wait_until(caught_up, "the index to catch up")
        rows = self.execute("SELECT id, v::real[], city FROM t")
        assert {key[0]: (row["vector"], row["city"]) for key, row in self.index.rows.items()} == {
            key: (vector, city) for key, vector, city in rows
        }
        assert copies is None or self.index.copies == copies


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do in tenths of seconds what the sidecar does in seconds."""
    monkeypatch.setattr(session, "CONFIRM_INTERVAL_S", 0.1)
    monkeypatch.setattr(session, "LOOK_INTERVAL_S", 0.3)
    monkeypatch.setattr(planning, "DURABLE_INTERVAL_S", 0.5)


@pytest.fixture
def stage(database: Database, receiver: Receiver) -> Iterator[Stage]:
    made = Stage(database, receiver)
    yield made
    for sidecar in made.sidecars:
        sidecar.stop()


def test_copy_and_stream_hand_over_while_a_writer_runs(stage: Stage) -> None:
    stage.attach()
    stage.execute("INSERT INTO t SELECT i, ARRAY[i,0,1]::real[] FROM generate_series(1, 3000) i")
    written = threading.Event()

    def write() -> None:
        with stage.database.connect() as conn:
            for number in range(1, 300):
                conn.execute("INSERT INTO t VALUES (%s, '[7,7,7]', 'new')", (-number,))
                conn.execute("UPDATE t SET v = '[8,8,8]' WHERE id = %s", (number,))
                conn.execute("UPDATE t SET id = id + 100000 WHERE id = %s", (number + 1000,))
                conn.execute("DELETE FROM t WHERE id = %s", (number + 2000,))
        written.set()

    writer = threading.Thread(target=write)
    writer.start()
    stage.start()
    writer.join()
    assert written.is_set()
    stage.expect_equal(copies=1)


def test_an_unchanged_toasted_vector_is_kept(stage: Stage) -> None:
    index = stage.attach("vector(1536)")
    stage.execute(
        "INSERT INTO t SELECT i, (SELECT array_agg(j * i + 0.5)::real[] FROM"
        " generate_series(1, 1536) j), 'a' FROM generate_series(1, 20) i"
    )
    stage.start()
    stage.expect_equal(copies=1)
    stage.execute("UPDATE t SET city = 'b' WHERE id < 10; UPDATE t SET id = -id WHERE id > 15")
    stage.expect_equal(copies=1)
    kept = [b for b in index.batches if b.kind is BatchKind.CHANGES and b.rows.num_rows]
    states = {state for batch in kept for state in batch.rows["vector_state"].to_pylist()}
    assert states == {VectorState.UNCHANGED}


def test_truncate_rollback_savepoints_and_nulls(stage: Stage) -> None:
    stage.attach()
    stage.execute("INSERT INTO t VALUES (1, '[1,2,3]', 'x'), (2, NULL, 'y')")
    stage.start()
    stage.expect_equal(copies=1)
    with stage.database.connect() as conn, conn.transaction():
        conn.execute("TRUNCATE t; INSERT INTO t VALUES (3, '[3,3,3]', 'z')")
        with conn.transaction(force_rollback=True):
            conn.execute("INSERT INTO t VALUES (4, '[4,4,4]')")
        conn.execute("INSERT INTO t VALUES (5, NULL)")
    stage.expect_equal(copies=1)
    # A second look at the catalog would take new storage without a TRUNCATE for a rewrite.
    confirmed = stage.index.watermark_lsn
    wait_until(lambda: _confirmed(stage) >= confirmed, "the confirmation")
    stage.expect_equal(copies=1)


def _confirmed(stage: Stage) -> int:
    state = stage.slot()
    return (state.confirmed_flush_lsn or 0) if state else 0


def test_a_transaction_becomes_visible_whole(stage: Stage) -> None:
    index = stage.attach()
    stage.start()
    stage.expect_equal(copies=1)
    seen: set[int] = set()
    watching = threading.Event()

    def watch() -> None:
        while not watching.is_set():
            with stage.receiver.lock:
                seen.add(len(index.rows))

    watcher = threading.Thread(target=watch)
    watcher.start()
    stage.execute("INSERT INTO t SELECT i, '[1,2,3]' FROM generate_series(1, 30000) i")
    stage.expect_equal(copies=1)
    watching.set()
    watcher.join()
    assert seen <= {0, 30000}


@pytest.mark.parametrize("fault", [503, "lose answer"])
def test_an_index_server_that_fails_is_waited_for(stage: Stage, fault: int | str) -> None:
    stage.attach()
    stage.execute("INSERT INTO t SELECT i, '[1,2,3]' FROM generate_series(1, 100) i")
    stage.receiver.faults = [503, 503]
    stage.start()
    stage.expect_equal(copies=1)
    stage.receiver.faults = [fault, fault]
    stage.execute("INSERT INTO t VALUES (1000, '[4,5,6]')")
    stage.expect_equal(copies=1)


def test_an_answer_lost_during_the_copy_makes_no_duplicates(stage: Stage) -> None:
    index = stage.attach()
    stage.execute("INSERT INTO t SELECT i, '[1,2,3]' FROM generate_series(1, 100) i")
    sidecar = stage.start()
    stage.expect_equal(copies=1)
    sidecar.stop()
    index.phase = "resync"
    with stage.receiver.lock:
        # The begin, the rows and the end of the copy are each taken twice.
        stage.receiver.faults = ["lose answer", 503, "lose answer", 503, "lose answer"]
    stage.start()
    stage.expect_equal(copies=2)
    assert index.repeats >= 2


@pytest.mark.parametrize("problem", ["resync-required", "stale-epoch"])
def test_a_server_that_asks_for_it_gets_a_new_copy(stage: Stage, problem: str) -> None:
    stage.attach()
    stage.execute("INSERT INTO t VALUES (1, '[1,2,3]')")
    stage.start()
    stage.expect_equal(copies=1)
    with stage.receiver.lock:
        stage.receiver.problem_type = f"urn:vecmirror:problem:{problem}"
        stage.receiver.faults = [409]
    stage.execute("INSERT INTO t VALUES (2, '[1,2,3]')")
    stage.expect_equal(copies=2)
    assert stage.index.epoch == 2


def test_a_restarted_sidecar_goes_on_without_a_copy(stage: Stage) -> None:
    stage.attach()
    sidecar = stage.start()
    stage.expect_equal(copies=1)
    stage.execute("INSERT INTO t VALUES (1, '[1,2,3]')")
    stage.expect_equal(copies=1)
    sidecar.stop()
    stage.execute("INSERT INTO t VALUES (2, '[1,2,3]'); DELETE FROM t WHERE id = 1")
    again = stage.start()
    stage.expect_equal(copies=1)
    assert [fields["reason"] for fields in again.told("stream_planned")] == ["the copy is complete"]


def test_only_what_the_server_calls_durable_is_confirmed(stage: Stage) -> None:
    index = stage.attach()
    stage.start()
    stage.execute("CREATE TABLE other (id int8)")
    stage.expect_equal(copies=1)
    for number in range(20):
        stage.execute(f"INSERT INTO t VALUES ({number}, '[1,2,3]')")
        stage.execute("INSERT INTO other SELECT generate_series(1, 100)")
        assert _confirmed(stage) <= index.durable_lsn
    durable = index.durable_lsn
    wait_until(lambda: _confirmed(stage) >= durable, "the confirmation")
    # Unrelated log is released too: the sidecar asks for a durable watermark on a quiet stream.
    ((now,),) = stage.execute("SELECT (pg_current_wal_flush_lsn() - '0/0')::int8")
    assert isinstance(now, int)
    wait_until(lambda: _confirmed(stage) >= now, "the release of unrelated log")


ALTERATIONS: dict[str, Callable[[Stage], object]] = {
    "a dropped and recreated slot": lambda stage: stage.execute(
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots"
        " WHERE database = current_database();"
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        " WHERE database = current_database()"
    ),
    "a rewritten table": lambda stage: stage.execute("VACUUM FULL t"),
    "a replaced column": lambda stage: stage.execute(
        "ALTER TABLE t DROP v CASCADE; ALTER TABLE t ADD v vector(3) DEFAULT '[9,9,9]';"
        "ALTER PUBLICATION mirror SET TABLE ONLY t (id, v, city)"
    ),
    "a table taken out of its publication": lambda stage: stage.execute(
        "ALTER PUBLICATION mirror DROP TABLE t; INSERT INTO t VALUES (77, '[1,1,1]');"
        "ALTER PUBLICATION mirror ADD TABLE t"
    ),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_whatever_the_stream_does_not_tell_leads_to_a_new_copy(
    stage: Stage, alteration: str
) -> None:
    stage.attach()
    stage.execute("INSERT INTO t SELECT i, '[1,2,3]' FROM generate_series(1, 10) i")
    sidecar = stage.start()
    stage.expect_equal(copies=1)
    # The sidecar is away: what it finds on its return is all it can know.
    sidecar.stop()
    ALTERATIONS[alteration](stage)
    stage.execute("INSERT INTO t VALUES (100, '[3,2,1]')")
    stage.start()
    stage.expect_equal(copies=2)


def test_a_rewrite_under_a_running_stream_leads_to_a_new_copy(stage: Stage) -> None:
    stage.attach()
    stage.execute("INSERT INTO t SELECT i, '[1,2,3]' FROM generate_series(1, 10) i")
    stage.start()
    stage.expect_equal(copies=1)
    stage.execute("ALTER TABLE t ADD noise float8 DEFAULT random()")
    stage.execute("INSERT INTO t VALUES (100, '[3,2,1]')")
    stage.expect_equal(copies=2)


def test_a_lost_publication_is_told_with_the_mend_and_healed_by_a_copy(stage: Stage) -> None:
    stage.attach()
    sidecar = stage.start()
    stage.expect_equal(copies=1)
    stage.execute("ALTER PUBLICATION mirror DROP TABLE t; INSERT INTO t VALUES (5, '[1,2,3]')")
    wait_until(
        lambda: any("ADD TABLE" in str(f["reason"]) for f in sidecar.told("retrying")), "the mend"
    )
    assert stage.slot() is None
    stage.execute("ALTER PUBLICATION mirror ADD TABLE t")
    stage.expect_equal(copies=2)


def test_a_row_filter_holds_for_copy_and_stream(stage: Stage) -> None:
    stage.attach(row_filter="city <> 'hidden'")
    stage.execute("INSERT INTO t VALUES (1, '[1,1,1]', 'a'), (2, '[2,2,2]', 'hidden')")
    stage.start()
    wait_until(lambda: stage.index.phase == "live", "the copy")
    assert stage.index.vectors() == {1: [1.0, 1.0, 1.0]}
    stage.execute("UPDATE t SET city = 'hidden' WHERE id = 1; UPDATE t SET city = 'b' WHERE id = 2")
    wait_until(lambda: stage.index.vectors() == {2: [2.0, 2.0, 2.0]}, "the exchange")


def test_a_renamed_table_is_followed(stage: Stage) -> None:
    stage.attach()
    sidecar = stage.start()
    stage.expect_equal(copies=1)
    stage.execute("ALTER TABLE t RENAME TO t2; INSERT INTO t2 VALUES (1, '[1,1,1]')")
    wait_until(lambda: stage.index.vectors() == {1: [1.0, 1.0, 1.0]}, "the row")
    sidecar.stop()
    stage.execute("INSERT INTO t2 VALUES (2, '[2,2,2]')")
    stage.start()
    wait_until(lambda: len(stage.index.rows) == 2, "the second row")
    assert stage.index.copies == 1


def test_the_slot_of_a_dropped_index_is_dropped(stage: Stage) -> None:
    stage.attach()
    sidecar = stage.start()
    stage.expect_equal(copies=1)
    with stage.receiver.lock:
        del stage.receiver.indexes["t"]
    wait_until(lambda: stage.slot() is None, "the slot to go")
    wait_until(lambda: bool(sidecar.told("slot_dropped")), "the word of it")


def test_a_server_that_is_loading_costs_no_slot(stage: Stage) -> None:
    stage.attach()
    sidecar = stage.start()
    stage.expect_equal(copies=1)
    receiver = stage.receiver
    with receiver.lock:
        receiver.loading = True
        receiver.requests.clear()
    asked = ("/v1/indexes/t", None)
    wait_until(lambda: receiver.requests.count(asked) >= 3, "the sidecar to ask for the index")
    with receiver.lock:
        receiver.loading = False
    stage.execute("INSERT INTO t SELECT 1000, v, city FROM t LIMIT 1")
    stage.expect_equal(copies=1)
    assert not sidecar.told("slot_dropped")


def test_an_index_of_another_database_is_left_alone(stage: Stage) -> None:
    index = stage.attach()
    index.database = "somewhere_else"
    sidecar = stage.start()
    wait_until(lambda: bool(sidecar.told("other_database")), "the word of it")
    assert sidecar.told("other_database") == [{"index": "t", "database": "somewhere_else"}]
    assert index.copies == 0
    with stage.receiver.lock:
        index.database = stage.database.name
    stage.expect_equal(copies=1)


def test_a_source_that_is_away_does_not_tell_whose_an_index_is(
    stage: Stage, tmp_path: Path
) -> None:
    stage.attach().database = stage.database.name
    sidecar = Sidecar(f"host={tmp_path}", stage.receiver.url)
    stage.sidecars.append(sidecar)
    wait_until(lambda: bool(sidecar.told("source_away")), "the word of it")
    assert not sidecar.told("retrying")


def test_a_failed_copy_leaves_no_slot(stage: Stage) -> None:
    stage.attach()
    stage.execute("INSERT INTO t VALUES (1, '[1,2,3]')")
    stage.receiver.problem_type = "urn:vecmirror:problem:bad-batch"
    stage.receiver.faults = [400] * 3
    sidecar = stage.start()
    wait_until(lambda: bool(sidecar.told("retrying")), "the failure")
    assert sidecar.told("slot_dropped")
    sidecar.stop()
    assert stage.slot() is None


def test_two_sidecars_do_not_work_on_one_index(stage: Stage) -> None:
    stage.attach()
    first = stage.start()
    stage.expect_equal(copies=1)
    second = stage.start()
    wait_until(lambda: bool(second.told("retrying")), "the second to be turned away")
    assert "another sidecar" in str(second.told("retrying")[0]["reason"])
    first.stop()
    stage.execute("INSERT INTO t VALUES (1, '[1,2,3]')")
    stage.expect_equal(copies=1)


def test_killed_connections_are_made_again_without_a_copy(stage: Stage) -> None:
    stage.attach()
    stage.start()
    stage.expect_equal(copies=1)
    for number in range(3):
        stage.execute(
            f"INSERT INTO t SELECT i, '[1,2,3]' FROM generate_series({number}000, {number}100) i"
        )
        stage.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'vecmirror' AND datname = current_database()"
        )
        stage.expect_equal(copies=1)


def test_postgres_may_restart_and_crash_in_the_middle(
    restartable: EmbeddedPostgres, receiver: Receiver
) -> None:
    database = Database("postgres", restartable.dsn(), restartable)
    database.execute("CREATE EXTENSION vector")
    stage = Stage(database, receiver)
    stage.attach()
    stage.start()
    try:
        stage.expect_equal(copies=1)
        for number, end in enumerate((restartable.stop, restartable.crash)):
            stage.execute(f"INSERT INTO t VALUES ({number}, '[1,2,3]')")
            end()
            restartable.start()
            stage.execute(f"INSERT INTO t VALUES ({number + 10}, '[1,2,3]')")
            stage.expect_equal(copies=1)
    finally:
        for sidecar in stage.sidecars:
            sidecar.stop()
