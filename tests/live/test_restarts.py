"""Any of the three processes may die at any moment: nothing is lost, duplicated or left stale."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from server.demo.postgres import EmbeddedPostgres
from tests.fix_mirroring import Mirrored, Processes, wait_for

ROUNDS = 4
INSERT = (
    b"INSERT INTO items SELECT i, i %% 100, ARRAY[i %% 7, i %% 11, i %% 13, i %% 17]::vector(4)"
    b" FROM generate_series(%s::int, %s::int) i"
)

Disturb = Callable[[EmbeddedPostgres, Processes], None]


def kill_server(_: EmbeddedPostgres, processes: Processes) -> None:
    """SIGKILL the index server and start it again."""
    processes.restart_server(kill=True)


def stop_server(_: EmbeddedPostgres, processes: Processes) -> None:
    """SIGTERM the index server and start it again."""
    processes.restart_server(kill=False)


def kill_sidecar(_: EmbeddedPostgres, processes: Processes) -> None:
    """SIGKILL the sidecar and start it again."""
    processes.restart_sidecar(kill=True)


def stop_sidecar(_: EmbeddedPostgres, processes: Processes) -> None:
    """SIGTERM the sidecar and start it again."""
    processes.restart_sidecar(kill=False)


def kill_both(_: EmbeddedPostgres, processes: Processes) -> None:
    """SIGKILL server and sidecar, then start them, the sidecar first to find nobody."""
    processes.server.kill()
    processes.restart_sidecar(kill=True)
    processes.restart_server(kill=True)


def restart_postgres(postgres: EmbeddedPostgres, _: Processes) -> None:
    """Stop Postgres as its administrator would, and start it."""
    postgres.restart()


def crash_postgres(postgres: EmbeddedPostgres, _: Processes) -> None:
    """SIGKILL every Postgres process, and start it."""
    postgres.crash()
    postgres.start()


class Writer:
    """Writes small transactions until stopped, through restarts of Postgres."""

    def __init__(self, dsn: str) -> None:
        self._dsn, self._stop = dsn, threading.Event()
        self._random = random.Random(11)
        self.transactions = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, transactions: int) -> None:
        """Wait until so many more transactions have committed."""
        goal = self.transactions + transactions
        wait_for(lambda: self.transactions >= goal, "the writer")

    def _run(self) -> None:
        key = 1_000
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._dsn) as connection:
                    while not self._stop.is_set():
                        self._transaction(connection, key)
                        key += 10
                        self.transactions += 1
            except psycopg.OperationalError:
                key += 10  # whether it committed is unknown, and does not matter here
                time.sleep(0.05)

    def _transaction(self, connection: psycopg.Connection, key: int) -> None:
        with connection.transaction():
            connection.execute(INSERT, [key, key + 9])
            old = self._random.randrange(1_000, key + 1)
            connection.execute("UPDATE items SET price = -price WHERE id = %s", [old])
            connection.execute("DELETE FROM items WHERE id = %s", [old + 3])
            connection.execute("UPDATE items SET id = -id WHERE id = %s", [old + 5])


@pytest.fixture
def mirrored(restartable: EmbeddedPostgres, tmp_path: Path) -> Iterator[Mirrored]:
    """Return a mirrored table whose three processes belong to the test."""
    dsn = restartable.dsn(tcp=True)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(
            "CREATE SCHEMA own CREATE TABLE items"
            " (id bigint PRIMARY KEY, price int, embedding vector(4))"
        )
        connection.execute(b"SET search_path = own, public;")
        connection.execute(INSERT, [1, 900])
    processes = Processes(dsn, tmp_path)
    yield Mirrored(dsn, "own", processes)
    processes.close()


@pytest.mark.parametrize(
    "disturb",
    [kill_server, stop_server, kill_sidecar, stop_sidecar, kill_both, restart_postgres,
     crash_postgres],
)  # fmt: skip
def test_the_index_equals_the_table_after(
    disturb: Disturb, restartable: EmbeddedPostgres, mirrored: Mirrored
) -> None:
    mirrored.attach(columns=("price",), train_from_rows=2_000)
    with Writer(mirrored.dsn) as writer:
        mirrored.wait_live()
        for _ in range(ROUNDS):
            disturb(restartable, mirrored.processes)
            writer.wait_for(20)
            mirrored.wait_live()
    mirrored.catch_up()
    mirrored.assert_equal()
    assert mirrored.describe()["epoch"] == 1, "no restart may cost a new copy"


def test_a_copy_that_is_killed_starts_again(mirrored: Mirrored) -> None:
    mirrored.execute(INSERT.decode(), [10_000, 90_000])
    mirrored.attach()
    for disturb in (kill_sidecar, kill_server, kill_both):
        mirrored.wait_until(lambda description: description["phase"] != "new")
        disturb(None, mirrored.processes)  # type: ignore[arg-type]  # Postgres is left alone
    mirrored.wait_live()
    mirrored.assert_equal()
    slots = mirrored.execute("SELECT count(*) FROM pg_replication_slots")
    assert slots == [(1,)], "killed copies leave no slot behind"


def test_a_lost_slot_leads_to_a_new_copy(mirrored: Mirrored) -> None:
    mirrored.attach()
    mirrored.wait_live()
    mirrored.processes.sidecar.stop()
    mirrored.execute(INSERT.decode(), [2_000, 2_100])
    mirrored.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    mirrored.execute(INSERT.decode(), [3_000, 3_100])
    mirrored.processes.restart_sidecar(kill=False)
    mirrored.wait_until(lambda description: description["epoch"] == 2)
    mirrored.wait_live()
    mirrored.assert_equal()
