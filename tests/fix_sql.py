"""A mirror with its SQL port open, and client databases that search it in plain SQL.

sql_service   a database of Postgres 18 with the table ``items``, mirrored, behind keys; everything
              that searches it shares it and leaves the rows of ``items`` as they are
sql_client    a database that sql-install prepared: the source itself on 18, others when slow
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from pgsync.connections import connect
from pgsync.inspection import inspect_table
from server.cli.attach import attach_column
from server.client import Client
from server.demo.postgres import EmbeddedPostgres
from server.demo.processes import ChildProcess, demo_environment
from server.demo.processes import wait_until as wait_for_child
from server.spec import IndexSpec
from server.sql.install import Options, PortAddress, install_statements
from server.sql.install.database import look, run
from tests.fix_postgres import free_port, fresh_database

READ_KEY, ADMIN_KEY = "read-of-the-tests", "admin-of-the-tests"
DIM, ROWS, TENANTS = 16, 2_000, 20
COLUMNS = ("tenant", "category", "price", "active", "created", "tags")
#: The first start on a machine compiles the kernels.
START_TIMEOUT_S = 240.0

#: ``title`` is not mirrored: only the base table knows it.
ITEMS_SQL = f"""
CREATE TABLE items (
    id bigint PRIMARY KEY, tenant int NOT NULL, category text, price float8, active bool,
    created timestamptz, tags text[], title text, embedding vector({DIM})
)
"""
FILL_SQL = """
SELECT setseed(0.5);
INSERT INTO items
SELECT i, i %% 20, (ARRAY['shoe', 'hat', 'coat', NULL])[1 + i %% 4], (i * 37 %% 1000) / 10.0,
    i %% 3 <> 0, '2026-01-01Z'::timestamptz + i * interval '1 minute',
    ARRAY['t' || i %% 7, 't' || i %% 11], 'item ' || i, %s
FROM generate_series(1, %s) AS i
"""
RANDOM_VECTOR = "(SELECT array_agg(random() - 0.5) FROM generate_series(1, {}) WHERE i > 0)::vector"


class SqlService:
    """A server with keys and its SQL port, and a sidecar, of one source database."""

    def __init__(self, dsn: str, folder: Path, postgres: EmbeddedPostgres) -> None:
        self.dsn, self.folder, self.postgres = dsn, folder, postgres
        self.http_port, self.port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.environment = demo_environment(
            {
                "VECMIRROR_SERVER__PORT": str(self.http_port),
                "VECMIRROR_SERVER__DATA_DIR": str(folder / "data"),
                "VECMIRROR_SQL__PORT": str(self.port),
                "VECMIRROR_AUTH__READ_KEYS": READ_KEY,
                "VECMIRROR_AUTH__ADMIN_KEYS": ADMIN_KEY,
                "VECMIRROR_SYNC__SERVER_URL": self.url,
                "VECMIRROR_SYNC__API_KEY": ADMIN_KEY,
                "VECMIRROR_SOURCE__DSN": dsn,
            }
        )
        self.client = Client(self.url, api_key=ADMIN_KEY)
        self.server = self._child("serve")
        self.sidecar = self._child("sync")

    @property
    def address(self) -> PortAddress:
        """Where the SQL port is."""
        return PortAddress(host="127.0.0.1", port=self.port)

    def _child(self, command: str) -> ChildProcess:
        child = ChildProcess(command, [command], self.environment, self.folder)
        if command == "serve":
            wait_for_child(self.client.alive, "the server", [child], START_TIMEOUT_S)
        return child

    def restart_server(self, *, kill: bool) -> None:
        """End the server and start it on the same files; return when it is ready."""
        self.server.kill() if kill else self.server.stop()
        self.server = self._child("serve")
        wait_for_child(self.client.ready, "the indexes", [self.server], START_TIMEOUT_S)

    def attach(
        self, schema: str, table: str, columns: Sequence[str], name: str, **options: Any
    ) -> IndexSpec:
        """Mirror ``embedding`` of a table and wait until it is copied."""
        metric = options.pop("metric", "l2")
        with connect(self.dsn) as connection:
            spec = inspect_table(connection, schema, table, "embedding", list(columns))
            request = {"name": name, "metric": metric, "params": options}
            attach_column(self.client, connection, spec, request)
        wait_for_child(lambda: self._phase(name) == "live", name, [self.server, self.sidecar])
        return self.spec(name)

    def spec(self, name: str) -> IndexSpec:
        """Return an index's spec."""
        return IndexSpec.from_json(self.client.describe(name)["spec"])

    def wait_trained(self, name: str) -> None:
        """Wait until every row is in a list of the trained index."""

        def trained() -> bool:
            seen = self.client.describe(name)
            return bool(seen["trained"]) and not seen["tail_rows"]

        wait_for_child(trained, "training", [self.server, self.sidecar], 120.0)

    def _phase(self, name: str) -> str:
        return str(self.client.describe(name)["phase"])

    def close(self) -> None:
        """Stop both processes."""
        self.sidecar.stop()
        self.server.stop()
        self.client.close()


@dataclass
class SqlClient:
    """A database on which ``items`` and the objects of sql-install are; ``major`` of its server."""

    dsn: str
    major: int
    service: SqlService
    has_vector: bool = True

    def connect(self, **parameters: Any) -> psycopg.Connection:
        """Return an autocommit connection; use it as a context manager so that it is closed."""
        return psycopg.connect(self.dsn, autocommit=True, **parameters)

    def execute(self, query: str, parameters: Sequence[object] | None = None) -> list[Any]:
        """Run one statement on a connection of its own; return its rows, if it has any."""
        with self.connect() as connection:
            cursor = connection.execute(query.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def install(self, name: str, **wanted: Any) -> None:
        """Do what sql-install does."""
        install(self.dsn, self.service, name, **wanted)


def install(dsn: str, service: SqlService, name: str, **wanted: Any) -> None:
    """Install an index into the database ``dsn``."""
    options = Options(**{"key": READ_KEY, **wanted})
    spec = service.spec(name)
    with connect(dsn) as connection:
        facts = look(connection, spec, options)
        run(connection, install_statements(spec, service.address, options, facts))


def vector_text(vector: NDArray[np.float32]) -> str:
    """Return pgvector's text form."""
    return "[" + ",".join(map(str, vector.tolist())) + "]"


def query_vector(seed: int = 0, dim: int = DIM) -> str:
    """Return a query vector as text."""
    vector = np.random.default_rng(seed).random(dim, np.float32) - np.float32(0.5)
    return vector_text(vector)


def plan_of(
    connection: psycopg.Connection, query: str, parameters: Sequence[object] | None = None
) -> str:
    """Return EXPLAIN VERBOSE without costs."""
    statement = f"EXPLAIN (VERBOSE, COSTS OFF) {query}"
    return "\n".join(
        line for (line,) in connection.execute(statement.encode(), parameters).fetchall()
    )


def remote_sql(plan: str) -> list[str]:
    """Return what a plan sends to the index."""
    marks = (line.partition("Remote SQL: ") for line in plan.splitlines())
    return [sent for _, mark, sent in marks if mark]


@pytest.fixture(scope="session")
def sql_service(
    postgres18: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SqlService]:
    """Return the shared service with the index ``items``."""
    with fresh_database(postgres18) as database:
        database.execute(ITEMS_SQL)
        fill = FILL_SQL % (RANDOM_VECTOR.format(DIM), ROWS)
        database.execute(fill)
        database.execute("ANALYZE items")
        service = SqlService(database.dsn, tmp_path_factory.mktemp("sql"), postgres18)
        try:
            service.attach("public", "items", COLUMNS, "items")
            install(database.dsn, service, "items")
            yield service
        finally:
            service.close()


@pytest.fixture(scope="session")
def sql_client(sql_service: SqlService) -> SqlClient:
    """Return the source itself as the client database."""
    return SqlClient(sql_service.dsn, 18, sql_service)
