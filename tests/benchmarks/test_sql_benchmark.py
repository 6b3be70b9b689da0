"""The SQL benchmark runs end to end at sizes too small to mean anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.sql import AIMS, reached
from benchmarks.sql_forms import SEARCHES, forms

ROOT = Path(__file__).parents[2]


def test_every_form_is_measured_beside_http_and_pgvector() -> None:
    tiny = "--rows 900 --dim 8 --seconds 1 --concurrency 2 --json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sql", *tiny.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    asked = {(run["search"], run["who"]) for run in measured["runs"]}
    assert asked >= {(form.search, form.who) for form in forms()}
    assert asked >= {(search, "pgvector") for search in SEARCHES}
    assert min(run["qps"] for run in measured["runs"]) > 0
    ours = [run["recall_at_10"] for run in measured["runs"] if run["who"] != "pgvector"]
    assert 0.5 < min(ours) <= 1
    assert set(measured["reached"]) == set(AIMS)


def test_what_is_reached_is_read_from_the_right_runs() -> None:
    plain, _, join = SEARCHES

    def run(
        search: str, who: str, qps: float, p50_ms: float, concurrency: int = 1
    ) -> dict[str, object]:
        return {
            **{"search": search, "who": who, "qps": qps},
            **{"p50_ms": p50_ms, "concurrency": concurrency},
        }

    runs = [
        run(plain, "http", 900, 1.0),
        run(plain, "http", 2000, 4.0, 8),
        run(plain, "fdw light + join", 300, 2.25),
        run(plain, "dblink", 400, 2.0),
        run(plain, "dblink", 1200, 6.0, 8),
        run(join, "fdw join", 50, 20.0),
        run(join, "fdw id set", 120, 8.0),
        run(join, "pgvector", 60, 16.0),
    ]
    assert reached(runs) == {
        "light_join_over_http_ms": 1.25,
        "join_filter_qps_over_pgvector": 2.0,
        "dblink_qps": 1200,
    }
