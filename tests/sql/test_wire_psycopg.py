"""psycopg 3 against the port: text and binary, prepared, pipelined, in transactions."""

from __future__ import annotations

import psycopg
import pytest

from tests.fix_sql_wire import StartWire


def test_a_statement_is_answered(wire_server: StartWire) -> None:
    server = wire_server()
    with psycopg.connect(server.dsn()) as conn:
        assert conn.info.server_version == 180000
        assert conn.execute("SELECT numbers(3)").fetchall() == [(0,), (1,), (2,)]


