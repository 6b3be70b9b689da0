"""Real Postgres servers for tests: two majors, started when first asked for, one per test run.

postgres       a shared EmbeddedPostgres; the test runs once per major
postgres18     the shared server of major 18 only
database       a fresh database with pgvector on ``postgres``; dropped with its slots
database18     the same on ``postgres18``
restartable    a server of the test's own on a TCP port, to stop, crash and start; per major
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql

from server.demo.postgres import EmbeddedPostgres

MAJORS = (18, 16)

#: Safe here: tests kill processes, never the operating system, which holds what was written.
TEST_SETTINGS = {"fsync": "off", "max_prepared_transactions": "10", "max_connections": "100"}

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Database:
    """A database of its own: ``dsn`` over the Unix socket, and the server it lies on."""

    name: str
    dsn: str
    server: EmbeddedPostgres

    def connect(self) -> psycopg.Connection:
        """Return an autocommit connection; use it as a context manager so that it is closed."""
        return psycopg.connect(self.dsn, autocommit=True)

    def execute(
        self, query: str, parameters: Sequence[object] | None = None
    ) -> list[tuple[object, ...]]:
        """Run one statement on a connection of its own; return its rows, if it has any."""
        with self.connect() as connection:
            cursor = connection.execute(query.encode(), parameters)
            return cursor.fetchall() if cursor.description else []


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def fresh_database(server: EmbeddedPostgres) -> Iterator[Database]:
    """Create a database with pgvector on a running server; drop it and its slots at the end."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    database = Database(name, server.dsn(name), server)
    database.execute("CREATE EXTENSION vector")
    try:
        yield database
    finally:
        drop_database(server, name)


def drop_database(server: EmbeddedPostgres, name: str) -> None:
    """Drop a database, ending its sessions and dropping its replication slots first."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            [name],
        )
        admin.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE database = %s",
            [name],
        )
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Callable[[int], EmbeddedPostgres]]:
    """Return the shared server of a major version, starting it when it is first asked for."""
    running: dict[int, EmbeddedPostgres] = {}
    with ExitStack() as stack:

        def server(major: int) -> EmbeddedPostgres:
            if major not in running:
                postgres = EmbeddedPostgres(major=major, settings=TEST_SETTINGS)
                running[major] = stack.enter_context(postgres)
            return running[major]

        yield server


@pytest.fixture(scope="session", params=MAJORS, ids=lambda major: f"pg{major}")
def postgres(
    request: pytest.FixtureRequest, postgres_server: Callable[[int], EmbeddedPostgres]
) -> EmbeddedPostgres:
    """Return a shared server; the test runs once for each major version."""
    return postgres_server(request.param)


@pytest.fixture(scope="session")
def postgres18(postgres_server: Callable[[int], EmbeddedPostgres]) -> EmbeddedPostgres:
    """Return the shared server of major 18."""
    return postgres_server(18)


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> Iterator[Database]:
    """Return a fresh database with pgvector; the test runs once for each major version."""
    with fresh_database(postgres) as created:
        yield created


@pytest.fixture
def database18(postgres18: EmbeddedPostgres) -> Iterator[Database]:
    """Return a fresh database with pgvector on major 18."""
    with fresh_database(postgres18) as created:
        yield created


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def restartable(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """Return a server of the test's own on a TCP port; use ``dsn(name, tcp=True)``."""
    server = EmbeddedPostgres(major=request.param, port=free_port(), settings=TEST_SETTINGS)
    with server:
        yield server
