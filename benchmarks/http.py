"""How many searches the whole server answers: ``python -m benchmarks.http``.

Mirrors one table, trains its index, and searches it over HTTP beside pgvector's HNSW through
Postgres' own protocol, with the same rows, queries and numbers of connections.
benchmarks/README.md says what each figure is.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from rich.console import Console
from rich.table import Table

from .closed_loop import HITS
from .cpu import spent
from .report import machine
from .rows import BLOCK_ROWS, copy_body, copy_in, create_table, random_vectors
from .stack import BenchmarkFailed, Stack
from .throughput import TIMEOUT_S
from .writer import vector_text

TABLE = "searched"
FORMS = ("json", "raw")
TRAIN_FROM_ROWS = 20_000
#: Queries asked again, one by one, to see how many of the nearest rows come back.
RECALL_QUERIES = 200
_ROOT = Path(__file__).parents[1]

Vectors = NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print tables or, with --json, one object."""
    options = _parser().parse_args(arguments)
    progress = Console(stderr=True, quiet=options.json, style="dim")
    base, queries = _vectors(options)
    with Stack({}, min(TRAIN_FROM_ROWS, len(base))) as stack, stack.connect() as conn:
        result = _measure(stack, conn, base, queries, options, progress)
    print(json.dumps(result)) if options.json else _print_tables(Console(), result)


def _measure(
    stack: Stack,
    conn: psycopg.Connection,
    base: Vectors,
    queries: Vectors,
    options: argparse.Namespace,
    progress: Console,
) -> dict[str, Any]:
    """Fill, build both indexes, ask each for recall and then under load."""
    path = stack.folder / "queries.npy"
    np.save(path, queries)
    asked = queries[:RECALL_QUERIES]
    nearest = exact_nearest(base, asked)
    progress.print(f"filling and mirroring {len(base):,} rows of {base.shape[1]} dimensions")
    _fill(conn, base)
    began = time.perf_counter()
    name = stack.attach(TABLE)
    trained_s = _wait_trained(stack, name, began)
    progress.print("building pgvector's HNSW")
    built_s = _build_hnsw(conn)
    conn.execute("SELECT set_config('hnsw.ef_search', %s, false)", (str(options.ef_search),))
    recall = {
        "vecmirror": _recall(nearest, [_by_http(stack, name, query) for query in asked]),
        "pgvector": _recall(nearest, [_by_sql(conn, query) for query in asked]),
    }
    common = {"queries": str(path), "seconds": options.seconds}
    plans = {
        f"vecmirror {form}": {
            **{"target": "http", "port": stack.port, "form": form},
            **{"path": f"/v1/indexes/{name}/search", **common},
        }
        for form in FORMS
    }
    plans["pgvector hnsw"] = {
        **{"target": "postgres", "dsn": stack.dsn, "query": _query(conn), **common},
        "settings": {"hnsw.ef_search": str(options.ef_search)},
    }
    runs = []
    for (who, plan), concurrency in itertools.product(plans.items(), options.concurrency):
        progress.print(f"{who}: {concurrency} connections for {options.seconds:g} s")
        runs.append({"who": who, **_run(stack, {**plan, "concurrency": concurrency})})
    return {
        "qps": {
            who: {str(run["concurrency"]): run["qps"] for run in runs if run["who"] == who}
            for who in plans
        },
        f"recall_at_{HITS}": recall,
        "build_s": {"vecmirror": round(trained_s, 1), "pgvector": round(built_s, 1)},
        "rows": len(base),
        "dim": base.shape[1],
        "ef_search": options.ef_search,
        "runs": runs,
        "machine": machine(conn),
    }


def exact_nearest(base: Vectors, queries: Vectors) -> list[set[int]]:
    """Return the ids (from 1 on) of the nearest rows of each query by Euclidean distance."""
    norms = np.einsum("nd,nd->n", base, base)
    found = []
    for query in queries:
        distances = norms - 2 * (base @ query)
        found.append(set((np.argpartition(distances, HITS - 1)[:HITS] + 1).tolist()))
    return found


def _run(stack: Stack, plan: dict[str, Any]) -> dict[str, Any]:
    """Run one closed loop in a process of its own; add rates and CPU times."""
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
    cpu = spent(before, stack.cpu())
    requests, seconds = result["requests"], result["seconds"]
    server_s = cpu["server" if plan["target"] == "http" else "postgres"]
    # The warm-up costs CPU time too, about in proportion.
    share = seconds / (seconds + 0.5) / max(requests, 1) * 1e3
    return {
        **{"concurrency": plan["concurrency"], "qps": round(requests / seconds, 1)},
        **{"p50_ms": result["p50_ms"], "p99_ms": result["p99_ms"]},
        "server_cpu_ms": round(server_s * share, 3),
        "driver_cpu_ms": round(result["cpu_s"] * share, 3),
    }


def _vectors(options: argparse.Namespace) -> tuple[Vectors, Vectors]:
    """Return base and queries: of the files, or random around random centres."""
    if options.data is not None:
        base, queries = (
            np.load(f"{options.data}{part}.npy").astype(np.float32) for part in ("base", "query")
        )
        return base[: options.rows], queries
    rng = np.random.default_rng(7)
    centres = random_vectors(rng, 200, options.dim)
    rows = options.rows + 1000
    near = centres[rng.integers(0, len(centres), rows)] + random_vectors(rng, rows, options.dim)
    return near[: options.rows], near[options.rows :]


def _fill(conn: psycopg.Connection, base: Vectors) -> None:
    create_table(conn, TABLE, base.shape[1])
    for start in range(0, len(base), BLOCK_ROWS):
        copy_in(conn, TABLE, copy_body(start + 1, base[start : start + BLOCK_ROWS]))
    conn.execute(sql.SQL("VACUUM (FREEZE, ANALYZE) {}").format(sql.Identifier(TABLE)))
    conn.execute("CHECKPOINT")


def _wait_trained(stack: Stack, name: str, began_s: float) -> float:
    """Wait until every row is in the trained index; return the seconds since ``began_s``."""
    while time.perf_counter() - began_s < TIMEOUT_S:
        seen = stack.client.describe(name)
        if seen["phase"] == "live" and seen["trained"] and not seen["tail_rows"]:
            return time.perf_counter() - began_s
        stack.server.check()
        stack.sidecar.check()
        time.sleep(0.05)
    raise BenchmarkFailed(f"the index was not trained in {TIMEOUT_S:.0f} s")


def _build_hnsw(conn: psycopg.Connection) -> float:
    """Build the index as pgvector's documentation proposes; return the seconds it took."""
    conn.execute("SET maintenance_work_mem = '1GB'")
    began = time.perf_counter()
    query = sql.SQL("CREATE INDEX ON {} USING hnsw (embedding vector_l2_ops)")
    conn.execute(query.format(sql.Identifier(TABLE)))
    return time.perf_counter() - began


def _query(conn: psycopg.Connection) -> str:
    query = sql.SQL("SELECT id, embedding <-> %s::vector FROM {} ORDER BY 2 LIMIT {}")
    return query.format(sql.Identifier(TABLE), sql.Literal(HITS)).as_string(conn)


def _by_http(stack: Stack, name: str, query: Vectors) -> set[int]:
    answer = stack.client.search(name, {"vector": query.tolist(), "k": HITS})
    return {hit["key"] for hit in answer["hits"]}


def _by_sql(conn: psycopg.Connection, query: Vectors) -> set[int]:
    rows = conn.execute(_query(conn).encode(), (vector_text(query),)).fetchall()
    return {row[0] for row in rows}


def _recall(nearest: list[set[int]], found: list[set[int]]) -> float:
    shared = sum(len(a & b) for a, b in zip(nearest, found, strict=True))
    return round(shared / sum(map(len, nearest)), 4)


def _print_tables(console: Console, result: dict[str, Any]) -> None:
    recall, built = result[f"recall_at_{HITS}"], result["build_s"]
    table = Table(title=f"{result['rows']:,} rows of {result['dim']} dimensions, k = {HITS}")
    headings = ("", "conns", "qps", "p50 ms", "p99 ms", "CPU ms", "driver", "recall")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    shown: list[tuple[str, Callable[[Any], str]]] = [
        *(("concurrency", str), ("qps", "{:,.0f}".format)),
        *((key, "{:.2f}".format) for key in ("p50_ms", "p99_ms", "server_cpu_ms", "driver_cpu_ms")),
    ]
    for run in result["runs"]:
        cells = [form(run[key]) for key, form in shown]
        table.add_row(run["who"], *cells, f"{recall[run['who'].split()[0]]:.3f}")
    console.print(table)
    console.print(
        f"copied and trained in {built['vecmirror']} s; HNSW built in {built['pgvector']} s"
    )
    where = result["machine"].items()
    console.print(", ".join(f"{name} {value}" for name, value in where), style="dim")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__)
    parser.add_argument("--data", metavar="PREFIX", help="search PREFIXbase.npy by PREFIXquery.npy")
    parser.add_argument("--rows", type=int, default=80_000, help="rows of the table, at most")
    parser.add_argument("--dim", type=int, default=384, help="of random vectors")
    parser.add_argument("--concurrency", type=_numbers, default=(1, 8, 64), help="default: 1,8,64")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    parser.add_argument("--ef-search", type=int, default=40, help="of HNSW; 40 is its default")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
