"""Postgres, server and sidecar as real processes, as a user would start them."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from pgsync.inspection import inspect_table, parse_target
from pgsync.lsn import parse_lsn
from server.cli.attach import attach_column
from server.cli.detach import detach_index
from server.client import Client, ServerRefused
from server.demo.postgres import EmbeddedPostgres
from server.demo.processes import ChildProcess, demo_environment, wait_until

from .cpu import cpu_seconds, tree_cpu_seconds
from .rows import create_table, fill

#: As a careful DBA would set it for a bulk load: no checkpoint in the middle. Commits are durable.
POSTGRES_SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "max_slot_wal_keep_size": "-1",
    "autovacuum": "off",
}
POLL_S = 0.02
START_TIMEOUT_S = 60.0
#: Below the client's own time limit.
SEARCH_TIMEOUT_MS = 30_000


class BenchmarkFailed(Exception):
    """A step did not end in time or with a wrong result."""


class Stack:
    """The three processes and a client; everything is removed on exit.

    ``settings`` are environment variables for the server and the sidecar, ``train_from_rows`` goes
    to every index that is attached; None leaves it to the server.
    """

    def __init__(
        self, settings: dict[str, str] | None = None, train_from_rows: int | None = None
    ) -> None:
        self._exits = ExitStack()
        self.train_from_rows = train_from_rows
        self._settings = settings or {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exits.close()

    def _start(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="vecmirror-bench-"))
        self._exits.callback(shutil.rmtree, folder, ignore_errors=True)
        self.postgres = self._exits.enter_context(EmbeddedPostgres(settings=POSTGRES_SETTINGS))
        self.dsn = self.postgres.dsn()
        with self.connect() as conn:
            conn.execute("CREATE EXTENSION vector")
        self.port = _free_port()
        self.folder = folder
        self._environment = demo_environment(
            {
                "VECMIRROR_SERVER__PORT": str(self.port),
                "VECMIRROR_SERVER__DATA_DIR": str(folder / "data"),
                "VECMIRROR_SYNC__SERVER_URL": f"http://127.0.0.1:{self.port}",
                "VECMIRROR_SOURCE__DSN": self.dsn,
                "VECMIRROR_SQL__ENABLED": "false",  # its port may be taken
                **self._settings,
            }
        )
        self.client = self._exits.enter_context(Client(f"http://127.0.0.1:{self.port}"))
        self.server = self._child("server", "serve")
        wait_until(self.client.alive, "the server", [self.server], START_TIMEOUT_S)
        self.sidecar = self._child("sidecar", "sync")
        self._warm_up()

    def _warm_up(self) -> None:
        """Mirror one row, so that imports and first connections are no part of any figure."""
        with self.connect() as conn:
            create_table(conn, "warm_up", 1)
            fill(conn, "warm_up", 1, 1)
        name = self.attach("warm_up")
        self.wait_for(name, "live", START_TIMEOUT_S)
        self.drop(name)

    def _child(self, name: str, command: str) -> ChildProcess:
        child = ChildProcess(name, [command], self._environment, self.folder)
        return self._exits.enter_context(child)

    def restart_server(self) -> None:
        """Stop the server, start it anew, and wait until it says that it is ready."""
        self.server.stop()
        self.server = self._child("server", "serve")
        wait_until(self.client.ready, "the server", [self.server], START_TIMEOUT_S)

    def connect(self) -> psycopg.Connection:
        """Return an autocommit connection; use it as a context manager so that it is closed."""
        return psycopg.connect(self.dsn, autocommit=True)

    def attach(self, table: str, metric: str = "l2", filter_columns: Sequence[str] = ()) -> str:
        """Mirror ``public.<table>.embedding``; return the index's name.

        What ``vecmirror attach`` does, in this process: a command of its own would take longer to
        start than many a measurement takes.
        """
        target = parse_target(f"public.{table}.embedding")
        params = {} if self.train_from_rows is None else {"train_from_rows": self.train_from_rows}
        request = {"name": table, "metric": metric, "params": params}
        with self.connect() as conn:
            inspected = inspect_table(conn, *target, filter_columns)
            done = attach_column(self.client, conn, inspected, request)
        return str(done.index["name"])

    def wait_for(self, name: str, phase: str, timeout_s: float) -> float:
        """Poll until the index is in ``phase`` or past it; return the time.perf_counter of it."""
        order = ("new", "copying", "live")
        deadline = time.monotonic() + timeout_s
        while True:
            seen, now = str(self.client.describe(name)["phase"]), time.perf_counter()
            if seen in order and order.index(seen) >= order.index(phase):
                return now
            if time.monotonic() > deadline:
                raise BenchmarkFailed(
                    f"index {name} is {seen} after {timeout_s:.0f} s\n{self.sidecar.log_tail()}"
                )
            for child in (self.server, self.sidecar):
                child.check()
            time.sleep(POLL_S)

    def wait_applied(self, name: str, lsn: int, query: list[float], timeout_s: float) -> float:
        """Search with ``min_lsn``; return the time.perf_counter of its answer."""
        body = {"vector": query, "k": 1, "min_lsn": lsn, "timeout_ms": SEARCH_TIMEOUT_MS}
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.client.search(name, body)
                return time.perf_counter()
            except ServerRefused as refused:
                if refused.problem.get("code") != "stale-index" or time.monotonic() > deadline:
                    raise

    def drop(self, name: str) -> None:
        """Stop mirroring, so that the next measurement has the machine for itself."""
        with self.connect() as conn:
            detach_index(self.client, conn, name)

    def live_rows(self, name: str) -> int:
        """Return how many rows the index says it can find."""
        return int(self.client.describe(name)["rows"])

    def cpu(self) -> dict[str, float]:
        """Return CPU seconds by role since each process began; walsender is part of postgres."""
        with self.connect() as conn:
            walsenders = conn.execute(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender'"
            ).fetchall()
        return {
            "postgres": tree_cpu_seconds(self.postgres.pid),
            "walsender": sum(cpu_seconds(pid) for (pid,) in walsenders),
            "sidecar": tree_cpu_seconds(self.sidecar.pid),
            "server": tree_cpu_seconds(self.server.pid),
        }


def flush_lsn(conn: psycopg.Connection) -> int:
    """Return the position up to which the log is on disk: past every commit acknowledged so far."""
    row = conn.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
    assert row is not None
    return parse_lsn(row[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
