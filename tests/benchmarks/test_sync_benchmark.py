"""The benchmark runs end to end at sizes too small to mean anything, and its JSON has its shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from benchmarks.cpu import tree_cpu_seconds
from benchmarks.rows import copy_body, copy_in, create_table, random_vectors
from benchmarks.sync import main
from tests.fix_postgres import Database

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def measured() -> Any:
    """Return what ``--json`` prints, and nothing else is printed."""
    tiny = "--rows 2500 --dims 24 --rate 150 --seconds 1 --json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sync", *tiny.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    return json.loads(done.stdout)


def test_the_headline_figures_are_there_by_dimension(measured: Any) -> None:
    for key in ("copy_rows_per_s", "stream_rows_per_s", "backlog_rows_per_s", "copy_mb_per_s"):
        assert measured[key].keys() == {"24"}
        assert all(figure > 0 for figure in measured[key].values())
    latency = measured["commit_to_searchable_ms"]
    assert 0 < latency["p50"] <= latency["p99"]


def test_the_detail_says_where_the_time_goes(measured: Any) -> None:
    detail = measured["detail"]
    for kind, roles in (("copy", 4), ("stream", 5), ("backlog", 4)):
        for dim, one in detail[kind].items():
            assert (one["dim"], one["rows"] > 1000) == (int(dim), True)
            assert len(one["cpu_us_per_row"]) == roles
            assert one["rows_per_s"] == pytest.approx(one["rows"] / one["seconds"], rel=0.05)
    parts = detail["latency"]["parts"]
    assert parts.keys() == {"insert", "position", "waiting_search", "plain_search"}
    assert detail["latency"]["samples"] == 100
    assert {"processor", "cores", "postgres", "pgvector", "numpy"} <= measured["machine"].keys()


def test_the_command_line_refuses_what_it_cannot_measure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for wrong in (["--dims", "0"], ["--set", "nonsense"], ["--rows", "many"]):
        with pytest.raises(SystemExit):
            main(wrong)
    assert "VECMIRROR_SECTION__KEY=VALUE" in capsys.readouterr().err


def test_rows_arrive_as_they_were_made(database18: Database) -> None:
    vectors = random_vectors(np.random.default_rng(7), 300, 5)
    with database18.connect() as conn:
        create_table(conn, "made", 5)
        copy_in(conn, "made", copy_body(11, vectors))
        rows = conn.execute("SELECT id, embedding::float4[] FROM made ORDER BY id").fetchall()
    assert [key for key, _ in rows] == list(range(11, 311))
    np.testing.assert_array_equal(np.array([v for _, v in rows], dtype=np.float32), vectors)


def test_cpu_time_of_children_counts(database18: Database) -> None:
    root = database18.server.pid
    before = tree_cpu_seconds(root)
    with psycopg.connect(database18.dsn) as conn:
        conn.execute("SELECT count(*) FROM generate_series(1, 2000000)")
        alive = tree_cpu_seconds(root)
    assert alive > before
