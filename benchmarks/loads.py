"""Closed loops of searches, each driven by a process of its own, with what they cost the machine.

Over HTTP it is ``benchmarks.closed_loop``, to Postgres it is pgbench: both keep one request under
way on each connection, and cost little beside what they measure.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .cpu import spent
from .searched import ASKED
from .stack import BenchmarkFailed, Stack

_ROOT = Path(__file__).parents[1]


def http_load(
    stack: Stack,
    name: str,
    queries: Path,
    *,
    form: str,
    concurrency: int,
    seconds: float,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Ask the server for index ``name``; return rates, times in ms and CPU ms for each search."""
    plan = {
        **{"port": stack.port, "path": f"/v1/indexes/{name}/search", "form": form},
        **{"queries": str(queries), "concurrency": concurrency, "seconds": seconds},
        "options": options or {},
    }
    before = stack.cpu()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.closed_loop"],
        input=json.dumps(plan),
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BenchmarkFailed(done.stderr[-2000:])
    result = json.loads(done.stdout)
    # The warm-up costs CPU time too, about in proportion.
    counted = seconds / (seconds + 0.5)
    return {
        **{"concurrency": concurrency, "qps": round(result["requests"] / seconds, 1)},
        **{"p50_ms": result["p50_ms"], "p99_ms": result["p99_ms"]},
        **_cpu_ms(
            spent(before, stack.cpu())["server"] * counted,
            result["cpu_s"] * counted,
            result["requests"],
        ),
    }


def pgbench_load(
    stack: Stack,
    query: str,
    n_queries: int,
    settings: dict[str, str],
    *,
    concurrency: int,
    seconds: float,
) -> dict[str, Any]:
    """Ask Postgres; ``query`` names a random row of the queries' table as ``:q``.

    Looking the query up by number costs Postgres less than reading a vector's text would.
    """
    script, log = stack.folder / "script.sql", stack.folder / "pgbench_log"
    script.write_text(f"\\set q random(1, {n_queries})\n{query};\n")
    command = [
        str(stack.postgres.bin / "pgbench"),
        *("--no-vacuum", "--protocol", "prepared", "--client", str(concurrency)),
        *("--jobs", "1", "--time", str(max(1, round(seconds))), "--file", str(script)),
        *("--log", "--log-prefix", str(log), stack.dsn),
    ]
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    before, driver_before_s = stack.cpu(), _children_s()
    done = subprocess.run(
        command,
        env={**os.environ, "PGOPTIONS": options},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BenchmarkFailed(done.stderr[-2000:])
    driver_s, postgres_s = _children_s() - driver_before_s, spent(before, stack.cpu())["postgres"]
    took_ms, lasted_s = _read_log(log)
    return {
        **{"concurrency": concurrency, "qps": round(len(took_ms) / lasted_s, 1)},
        **{"p50_ms": _percentile(took_ms, 50), "p99_ms": _percentile(took_ms, 99)},
        **_cpu_ms(postgres_s, driver_s, len(took_ms)),
    }


def asked_vector() -> str:
    """Return the SQL expression of the query that pgbench drew."""
    return f"(SELECT embedding FROM {ASKED} WHERE id = :q)"


def _read_log(prefix: Path) -> tuple[np.ndarray[Any, np.dtype[np.float64]], float]:
    """Return each transaction's milliseconds and the seconds from the first start to the last end.

    Columns are described under "Per-Transaction Logging" on pgbench's page.
    """
    lines = []
    for path in prefix.parent.glob(f"{prefix.name}.*"):
        lines += path.read_text().split("\n")
        path.unlink()
    rows = np.array([line.split()[:6] for line in lines if line], np.float64)
    took_s, ended_s = rows[:, 2] / 1e6, rows[:, 4] + rows[:, 5] / 1e6
    return took_s * 1e3, float(ended_s.max() - (ended_s - took_s).min())


def _percentile(values: np.ndarray[Any, np.dtype[np.float64]], share: int) -> float:
    return round(float(np.percentile(values, share)), 3)


def _cpu_ms(server_s: float, driver_s: float, requests: int) -> dict[str, float]:
    each = 1e3 / max(requests, 1)
    return {
        "server_cpu_ms": round(server_s * each, 3),
        "driver_cpu_ms": round(driver_s * each, 3),
    }


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
