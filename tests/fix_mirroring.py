"""A mirrored table with real processes: Postgres, ``vecmirror serve`` and ``vecmirror sync``.

make_mirrored  makes a table in a fresh database and mirrors it through a server and a sidecar that
               all tests of one major share
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgsync.connections import connect
from pgsync.inspection import inspect_table
from server.cli.attach import attach_column
from server.cli.detach import detach_index
from server.cli.verify import verify_index
from server.client import Client, ServerRefused
from server.demo.postgres import EmbeddedPostgres
from server.demo.processes import ChildProcess, demo_environment
from tests.fix_postgres import free_port, fresh_database

#: How many times longer than usual tests wait. An emulated card is slow: tests/cuda/host sets it.
PATIENCE = float(os.environ.get("TEST_PATIENCE", "1"))
WAIT_S = 60.0 * PATIENCE
#: The longest that a search may wait for an LSN by the settings' defaults.
MOST_SEARCH_MS = 60_000
POLL_S = 0.02
LOADING = 503
#: The engine that servers must have, where tests are to say (tests/cuda/host): never another.
DEVICE = (
    {"VECMIRROR_SERVER__DEVICE": asked, "VECMIRROR_SERVER__DEVICE_REQUIRED": "true"}
    if (asked := os.environ.get("TEST_DEVICE"))
    else {}
)

Description = dict[str, Any]

_numbers = itertools.count(1)


class Processes:
    """An index server and a sidecar of one database, which a test may kill and start again."""

    def __init__(self, dsn: str, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        """Start both; ``settings`` are further variables of their environment."""
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self._environment = demo_environment(
            {
                "VECMIRROR_SERVER__PORT": self.url.rpartition(":")[2],
                "VECMIRROR_SERVER__DATA_DIR": str(folder / "data"),
                "VECMIRROR_SYNC__SERVER_URL": self.url,
                "VECMIRROR_SOURCE__DSN": dsn,
                **DEVICE,
                **(settings or {}),
            }
        )
        self.client = Client(self.url)
        self.server = self._child("serve")
        self.sidecar = self._child("sync")

    def _child(self, command: str) -> ChildProcess:
        child = ChildProcess(command, [command], self._environment, self.folder)
        if command == "serve":
            wait_for(self.client.alive, "the server to answer")
        return child

    def restart_server(self, *, kill: bool) -> None:
        """End the server, by SIGKILL or by SIGTERM, and start it on the same files."""
        self.server.kill() if kill else self.server.stop()
        self.server = self._child("serve")

    def restart_sidecar(self, *, kill: bool) -> None:
        """End the sidecar, by SIGKILL or by SIGTERM, and start it again."""
        self.sidecar.kill() if kill else self.sidecar.stop()
        self.sidecar = self._child("sync")

    def close(self) -> None:
        """Stop both."""
        self.sidecar.stop()
        self.server.stop()
        self.client.close()


class Mirrored:
    """The table ``items`` in a schema of its own, and the index that mirrors it."""

    def __init__(self, database_dsn: str, schema: str, processes: Processes) -> None:
        self.database_dsn, self.schema, self.processes = database_dsn, schema, processes
        self.client = processes.client
        self.name = f"{schema}_items"
        self.dsn = make_conninfo(database_dsn, options=f"-c search_path={schema},public")

    def connect(self) -> psycopg.Connection:
        """Return an autocommit connection on which ``items`` is our table."""
        return psycopg.connect(self.dsn, autocommit=True)

    def execute(self, query: str, parameters: Sequence[object] | None = None) -> list[Any]:
        """Run one statement on a connection of its own; return its rows, if it has any."""
        with self.connect() as connection:
            cursor = connection.execute(query.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def attach(self, columns: Sequence[str] = (), metric: str = "l2", **params: Any) -> None:
        """Make the index."""
        with connect(self.database_dsn) as connection:
            table = inspect_table(connection, self.schema, "items", "embedding", list(columns))
            request = {"name": self.name, "metric": metric, "params": params}
            attach_column(self.client, connection, table, request)

    def describe(self) -> Description:
        """Return the index's description."""
        return self.client.describe(self.name)

    def remove(self) -> None:
        """Drop index, slot, publication and table."""
        with connect(self.database_dsn) as connection:
            if self.name in {index["name"] for index in self.client.indexes()}:
                detach_index(self.client, connection, self.name)
            connection.execute(f"DROP SCHEMA {self.schema} CASCADE".encode())

    def wait_until(self, condition: Callable[[Description], bool]) -> None:
        """Wait until the description fulfils ``condition``; a server may be loading meanwhile."""

        def fulfilled() -> bool:
            try:
                return condition(self.describe())
            except ServerRefused as refused:
                if refused.status != LOADING:
                    raise
                return False

        wait_for(fulfilled, "the index", self._story)

    def wait_live(self) -> None:
        """Wait until the table is copied."""
        self.wait_until(lambda description: description["phase"] == "live")

    def catch_up(self) -> None:
        """Wait until the index holds everything that is committed now."""
        (((lsn,),)) = self.execute("SELECT pg_current_wal_flush_lsn()::text")
        self.search([1.0] * self._dim(), k=1, min_lsn=lsn, timeout_ms=MOST_SEARCH_MS)

    def search(self, vector: Sequence[float], k: int, **request: Any) -> list[dict[str, Any]]:
        """Search with what is committed now; return the hits."""
        if "min_lsn" not in request:
            (((request["min_lsn"],),)) = self.execute("SELECT pg_current_wal_flush_lsn()::text")
        body = {"vector": list(vector), "k": k, "timeout_ms": 30_000, **request}
        hits: list[dict[str, Any]] = self.client.search(self.name, body)["hits"]
        return hits

    def rows(self) -> int:
        """Return how many rows the index holds."""
        rows: int = self.describe()["rows"]
        return rows

    def assert_equal(self) -> None:
        """Compare index and table row by row at one LSN."""
        found = verify_index(self.client, self.database_dsn, self.name).differences
        assert found.total == 0, found
        assert found.rows == self.rows()

    def _dim(self) -> int:
        dim: int = self.describe()["dim"]
        return dim

    def _story(self) -> str:
        logs = (self.processes.server, self.processes.sidecar)
        return f"{self.describe()}\n" + "\n".join(child.log_tail() for child in logs)


MakeMirrored = Callable[..., Mirrored]


def wait_for(
    condition: Callable[[], bool], what: str, story: Callable[[], str] = lambda: ""
) -> None:
    """Wait until ``condition`` holds; fail the test with ``story`` when it takes too long."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {WAIT_S:.0f} s for {what}\n{story()}")
        time.sleep(POLL_S)


@pytest.fixture(scope="session")
def shared_processes(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Processes]]:
    """Return the DSN of a database and the processes that mirror it; one pair per major."""
    with fresh_database(postgres) as database:
        processes = Processes(database.dsn, tmp_path_factory.mktemp("mirroring"))
        yield database.dsn, processes
        processes.close()


@pytest.fixture
def make_mirrored(shared_processes: tuple[str, Processes]) -> Iterator[MakeMirrored]:
    """Return a function that makes ``items`` and mirrors it; the index goes with the test."""
    made: list[Mirrored] = []
    dsn, processes = shared_processes

    def make(
        shape: str, *, fill: str, attach: bool = True, columns: Sequence[str] = (), **options: Any
    ) -> Mirrored:
        mirrored = Mirrored(dsn, f"test_{next(_numbers)}", processes)
        made.append(mirrored)
        mirrored.execute(f"CREATE SCHEMA {mirrored.schema} CREATE TABLE items ({shape})")
        mirrored.execute(fill)
        if attach:
            mirrored.attach(columns, **options)
            mirrored.wait_live()
        return mirrored

    yield make
    for mirrored in made:
        mirrored.remove()
