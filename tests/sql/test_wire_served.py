"""The port as ``vecmirror serve`` opens it: beside HTTP, behind keys, up to the end."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import psycopg
import pytest
from psycopg import errors

from server.client import Client
from server.demo.processes import ChildProcess, demo_environment, wait_until
from tests.fix_postgres import free_port
from tests.sql.raw_client import RawClient, cancel, message, query, startup

SEED = random.randrange(2**32)
KEY = "boss-of-the-tests"


class Served:
    """A running server without any index."""

    def __init__(self, folder: Path) -> None:
        http, self.port = free_port(), free_port()
        environment = {
            "VECMIRROR_SERVER__PORT": str(http),
            "VECMIRROR_SERVER__DATA_DIR": str(folder / "data"),
            "VECMIRROR_SQL__PORT": str(self.port),
            "VECMIRROR_SQL__MAX_CONNECTIONS": "40",
            "VECMIRROR_AUTH__ADMIN_KEYS": KEY,
        }
        self.process = ChildProcess("serve", ["serve"], demo_environment(environment), folder)
        self.client = Client(f"http://127.0.0.1:{http}", api_key=KEY)
        wait_until(self.client.ready, "the server", [self.process], 240.0)

    def connect(self) -> psycopg.Connection:
        """Return a connection with the key as its password."""
        dsn = f"host=127.0.0.1 port={self.port} user=me dbname=vecmirror password={KEY}"
        return psycopg.connect(dsn, autocommit=True)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    served.client.close()
    served.process.stop()


def test_what_clients_are_told_is_what_sql_shows(served: Served) -> None:
    with served.connect() as conn:
        shown = conn.execute("SHOW server_version").fetchone()
        told = conn.info.parameter_status("server_version")
        assert shown is not None
        assert told is not None
        assert told.startswith(f"{shown[0]} (Vecmirror ")
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_asyncpg_finds_what_it_asks_the_catalog(served: Served) -> None:
    async def talk() -> None:
        conn = await asyncpg.connect(
            host="127.0.0.1", port=served.port, user="me", database="x", password=KEY
        )
        assert await conn.fetchval("SELECT $1::bigint[]", [1, None]) == [1, None]
        assert await conn.fetchval("SELECT $1::vector", "[1,2.5]") == "[1,2.5]"
        await conn.close()

    asyncio.run(talk())


def test_hostile_clients_neither_end_the_server_nor_starve_http(served: Served) -> None:
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    first = b"n,,n=,r=abc"
    hello = message(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first)
    with ExitStack() as stack, served.connect() as conn:
        for number in range(120):
            client = stack.enter_context(RawClient(served.port))
            attack = number % 6
            if attack == 0:
                client.send(rng.randbytes(200))
            elif attack == 1:
                client.send(startup(), hello)
                client.read()
                nonce = client.read()[1][4:].split(b",")[0]
                client.send(message(b"p", b"c=biws," + nonce + b",p=" + b"A" * 43 + b"="))
            elif attack == 2:
                client.send(cancel(rng.getrandbits(31), rng.randbytes(32)))
            elif attack == 3:
                client.send(startup(), b"p" + struct.pack("!i", 2**31 - 1))
            elif attack == 4:
                client.send(startup(), query("SELECT 1"))
            if number % 20 == 0:
                assert served.client.alive()
        assert conn.execute("SELECT 1").fetchone() == (1,)
        assert served.client.ready()
    with served.connect() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_sql_outside_the_subset_is_an_error_and_no_more(served: Served) -> None:
    wrong = [
        "COPY t FROM STDIN",
        "COPY (SELECT 1) TO STDOUT",
        "INSERT INTO t VALUES (1)",
        "CREATE TABLE t (a int)",
        "LISTEN x",
        "SELECT pg_sleep(1)",
        "SELECT * FROM nothing",
        "SELECT (" * 5_000,
        "'",
        "$$",
        "é" * 10_000,
    ]
    with served.connect() as conn:
        for text in wrong:
            with pytest.raises(psycopg.Error) as caught:
                conn.execute(text.encode())
            assert caught.value.sqlstate is not None
            assert caught.value.sqlstate != "XX000", text[:40]
            assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_stop_tells_clients_and_ends_well(tmp_path: Path) -> None:
    served = Served(tmp_path)
    with served.connect() as conn, RawClient(served.port) as stranger:
        stranger.send(startup())
        served.client.close()
        served.process.stop()
        with pytest.raises((errors.AdminShutdown, psycopg.OperationalError), match="terminating"):
            conn.execute("SELECT 1")
