"""asyncpg and psql against the port."""

from __future__ import annotations

import asyncio
import datetime
import os
import subprocess
import uuid

import asyncpg
import pytest

from server.demo.postgres import EmbeddedPostgres
from tests.fix_sql_wire import StartWire, WireServer

#: Of arrays asyncpg asks the catalog first, which is the session's to answer.
VALUES = [
    (True, "bool"),
    (-5, "int2"),
    (2**31 - 1, "int4"),
    (-(2**63), "int8"),
    (0.5, "float4"),
    (1 / 3, "float8"),
    ("日本", "text"),
    (uuid.UUID(int=7), "uuid"),
    (datetime.date(2026, 11, 22), "date"),
    (datetime.datetime(2026, 11, 22, 17, 5, 1, 250000), "timestamp"),
    (datetime.datetime(2026, 11, 22, 17, 5, 1, 1, datetime.UTC), "timestamptz"),
    (None, "text"),
]


@pytest.fixture
def server(wire_server: StartWire) -> WireServer:
    return wire_server(auth={"admin_keys": "open-sesame"})


async def _connect(server: WireServer) -> asyncpg.Connection:
    return await asyncpg.connect(
        host="127.0.0.1", port=server.port, user="me", database="db", password="open-sesame"
    )


def test_asyncpg_sends_and_reads_binary_values(server: WireServer) -> None:
    async def talk() -> None:
        conn = await _connect(server)
        for value, kind in VALUES:
            assert await conn.fetchval(f"SELECT $1::{kind}", value) == value
        await conn.close()

    asyncio.run(talk())


def test_asyncpg_runs_cursors_transactions_and_cancels(server: WireServer) -> None:
    async def talk() -> None:
        conn = await _connect(server)
        async with conn.transaction():
            cursor = conn.cursor("SELECT numbers(250)", prefetch=100)
            assert [row["n"] async for row in cursor] == list(range(250))
            taken = await conn.cursor("SELECT numbers(9)")
            assert [row["n"] for row in await taken.fetch(4)] == [0, 1, 2, 3]
        with pytest.raises(asyncpg.DivisionByZeroError):
            await conn.execute("FAIL")
        with pytest.raises(asyncio.TimeoutError):
            await conn.execute("SLEEP 60", timeout=0.1)
        assert await conn.fetchval("SELECT numbers(1)") == 0
        await conn.close()

    asyncio.run(talk())


def psql(server: WireServer, postgres: EmbeddedPostgres, *commands: str) -> tuple[int, str, str]:
    """Run psql; return its status and what it printed."""
    arguments = [part for command in commands for part in ("-c", command)]
    done = subprocess.run(
        [postgres.bin / "psql", "-XAtq", server.dsn(password="open-sesame"), *arguments],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_psql_shows_rows_errors_and_notices(
    server: WireServer, postgres18: EmbeddedPostgres
) -> None:
    status, out, _ = psql(server, postgres18, "SELECT numbers(3)", "SELECT 'a'::text, NULL::int4")
    assert (status, out) == (0, "0\n1\n2\na|\n")
    status, _, err = psql(server, postgres18, "FAIL this")
    assert status == 1
    assert err == ("ERROR:  division by zero\nLINE 1: FAIL this\n             ^\nHINT:  do not\n")
    status, _, err = psql(server, postgres18, "NOTE")
    assert (status, err) == (0, "NOTICE:  look here\n")


def test_psql_can_send_parameters_and_pipelines(
    server: WireServer, postgres18: EmbeddedPostgres
) -> None:
    script = "\\set ON_ERROR_STOP on\nSELECT $1::int4 \\bind 41 \\g\n\\startpipeline\n"
    script += "SELECT $1::int4 \\bind 42 \\sendpipeline\n\\endpipeline\n"
    done = subprocess.run(
        [postgres18.bin / "psql", "-XAtq", server.dsn(password="open-sesame")],
        input=script,
        env={"PATH": os.environ["PATH"]},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "41\n42\n"


def test_a_wrong_password_is_told_as_such(server: WireServer, postgres18: EmbeddedPostgres) -> None:
    done = subprocess.run(
        [postgres18.bin / "psql", "-X", server.dsn(password="wrong"), "-c", "SELECT numbers(1)"],
        env={"PATH": os.environ["PATH"]},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "FATAL:  password authentication failed" in done.stderr
    assert "the password is an API key" in done.stderr
