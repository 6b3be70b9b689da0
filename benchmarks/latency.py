"""From a commit until a search that must not miss it is answered, under a steady load."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from pgsync.lsn import format_lsn

from .cpu import per_row_us, spent
from .rows import create_table, fill, random_vectors
from .stack import BenchmarkFailed, Stack, flush_lsn
from .throughput import TIMEOUT_S
from .writer import insert_query, vector_text

#: Rows already in the table, so that a search has something to do.
PRESENT_ROWS = 10_000

#: Keys of probes and of the load; far apart, so that neither meets the other.
PROBE_ID, LOAD_ID = 1 << 40, 1 << 41

#: Every so many probes one search is repeated without ``min_lsn``: what searching alone takes.
PLAIN_EVERY = 5

PROBES_PER_S = 100.0
WARM_UP_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """One measurement, in milliseconds.

    ``commit_to_searchable`` runs from the commit's acknowledgement, through asking Postgres for its
    position, to the answer of a search with that ``min_lsn``.
    ``parts`` has p50 and p99 of the INSERT itself, of asking for the position, of the search that
    waits, and of the same search when there is nothing to wait for.
    """

    samples: int
    dim: int
    rows_per_s: float
    commit_to_searchable: dict[str, float]
    parts: dict[str, dict[str, float]]
    cpu_us_per_row: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return asdict(self)


class Searcher:
    """One kept-open HTTP connection; searches for the nearest row only."""

    def __init__(self, port: int, name: str) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._path = f"/v1/indexes/{name}/search"

    def nearest(self, vector: list[float], min_lsn: int | None) -> int:
        """Return the key of the nearest row."""
        wait = {} if min_lsn is None else {"min_lsn": format_lsn(min_lsn), "timeout_ms": 30_000}
        body = json.dumps({"vector": vector, "k": 1, **wait})
        self._http.request("POST", self._path, body, {"Content-Type": "application/json"})
        response = self._http.getresponse()
        answer = json.loads(response.read())
        if response.status != http.client.OK:
            raise BenchmarkFailed(f"a search was refused: {answer}")
        return int(answer["hits"][0]["key"])

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def measure_latency(stack: Stack, dim: int, rate: float, seconds: float) -> Latency:
    """Probe while ``rate`` rows a second (probes included) are committed one by one."""
    table = f"latency_{dim}"
    with stack.connect() as conn:
        create_table(conn, table, dim)
        fill(conn, table, PRESENT_ROWS, dim)
    name = stack.attach(table)
    stack.wait_for(name, "live", TIMEOUT_S)
    load_rate = max(rate - PROBES_PER_S, 1.0)
    with _load(stack, table, dim, load_rate, seconds + WARM_UP_S) as writer:
        time.sleep(WARM_UP_S)
        before = stack.cpu()
        times = _probe_steadily(stack, name, table, dim, seconds)
        cpu = spent(before, stack.cpu())
        written = json.loads(writer.communicate()[0])
    achieved = written["rows"] / written["seconds"] + PROBES_PER_S
    result = Latency(
        samples=len(times["total"]),
        dim=dim,
        rows_per_s=round(achieved),
        commit_to_searchable=_percentiles(times.pop("total")),
        parts={part: _percentiles(values) for part, values in times.items()},
        cpu_us_per_row=per_row_us(cpu, int(achieved * seconds)),
    )
    stack.drop(name)
    return result


def _load(stack: Stack, table: str, dim: int, rate: float, seconds: float) -> subprocess.Popen[str]:
    numbers = [str(value) for value in (dim, rate, seconds, LOAD_ID)]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.writer", stack.dsn, table, *numbers],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )


def _probe_steadily(
    stack: Stack, name: str, table: str, dim: int, seconds: float
) -> dict[str, list[float]]:
    """Probe by the clock for ``seconds``; return milliseconds by part of a probe."""
    vectors = random_vectors(np.random.default_rng(2), int(seconds * PROBES_PER_S), dim)
    times: dict[str, list[float]] = {
        "total": [],
        "insert": [],
        "position": [],
        "waiting_search": [],
        "plain_search": [],
    }
    searcher, began = Searcher(stack.port, name), time.perf_counter()
    with psycopg.connect(stack.dsn, autocommit=True, prepare_threshold=1) as conn:
        for number, vector in enumerate(vectors):
            time.sleep(max(0.0, began + number / PROBES_PER_S - time.perf_counter()))
            values = vector.tolist()
            text = vector_text(vector)
            moments = [time.perf_counter()]
            conn.execute(insert_query(table), (PROBE_ID + number, text))
            moments.append(time.perf_counter())
            lsn = flush_lsn(conn)
            moments.append(time.perf_counter())
            found = searcher.nearest(values, lsn)
            moments.append(time.perf_counter())
            if found != PROBE_ID + number:
                raise BenchmarkFailed("a search that was told to wait missed a committed row")
            insert, position, search = np.diff(moments) * 1e3
            times["insert"].append(insert)
            times["position"].append(position)
            times["waiting_search"].append(search)
            times["total"].append(position + search)
            if number % PLAIN_EVERY == 0:
                asked = time.perf_counter()
                searcher.nearest(values, None)
                times["plain_search"].append((time.perf_counter() - asked) * 1e3)
    searcher.close()
    return times


def _percentiles(values: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}
