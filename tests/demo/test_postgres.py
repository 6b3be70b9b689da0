"""The embedded Postgres: starts, restarts, crashes, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest

from server.demo.binaries import PostgresUnavailable
from server.demo.postgres import EmbeddedPostgres
from tests.fix_postgres import Database, free_port


def test_has_pgvector_and_logical_wal(database: Database) -> None:
    (version,), *_ = database.execute("SELECT current_setting('server_version_num')::int / 10000")
    assert version == database.server.major
    assert database.execute("SHOW wal_level") == [("logical",)]
    assert database.execute("SELECT '[1,2]'::vector <-> '[1,4]'::vector") == [(2.0,)]


def test_never_runs_as_root(postgres18: EmbeddedPostgres) -> None:
    assert Path(f"/proc/{postgres18.pid}").stat().st_uid != 0 or os.geteuid() != 0


def test_survives_restart_and_crash_and_leaves_nothing(restartable: EmbeddedPostgres) -> None:
    dsn = restartable.dsn(tcp=True)
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS a")
    restartable.settings["work_mem"] = "5MB"
    restartable.restart()
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("5MB",)
        connection.execute("INSERT INTO t VALUES (2)")
    restartable.crash()
    assert not restartable.running
    restartable.start()
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (2,)
    restartable.close()
    assert not restartable.home.exists()


def test_tcp_needs_the_password() -> None:
    with (
        EmbeddedPostgres(port=free_port()) as server,
        pytest.raises(psycopg.OperationalError, match="password"),
    ):
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{server.port}/postgres")


def test_refuses_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(PostgresUnavailable, match="too long"):
        EmbeddedPostgres(tmp_path / ("x" * 100)).start()


def test_names_the_wheel_of_a_missing_version() -> None:
    with pytest.raises(PostgresUnavailable, match="no runnable Postgres 9"):
        EmbeddedPostgres(major=9)
