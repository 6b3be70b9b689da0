"""How many searches the whole server answers: ``python -m benchmarks.http``.

Mirrors one table, trains its index, and searches it over HTTP beside pgvector's HNSW through
Postgres' own protocol, with the same rows, queries and numbers of connections, at the same recall.
benchmarks/README.md says what each figure is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from rich.console import Console
from rich.table import Table

from gpu import Metric

from .loads import asked_vector, http_load, pgbench_load
from .report import machine
from .rows import random_vectors
from .searched import (
    HITS,
    TRAIN_FROM_ROWS,
    Searched,
    build_hnsw,
    exact,
    fill,
    found_by_http,
    found_by_sql,
    least_ef_search,
    recall,
    search_sql,
    set_local,
)
from .stack import Stack
from .vector_sets import METRICS, VectorSet, load_set

FORMS = ("json", "raw")
#: Queries whose true neighbours are known: they tell the recall.
RECALL_QUERIES = 200
#: First searches after the server says it is ready.
FIRST_SEARCHES = 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print tables or, with --json, one object."""
    options = parser(__doc__ or "").parse_args(arguments)
    progress = Console(stderr=True, quiet=options.json, style="dim")
    vectors = wanted_vectors(options)
    with Stack({}, min(TRAIN_FROM_ROWS, len(vectors.rows))) as stack, stack.connect() as conn:
        result = _measure(stack, conn, vectors, options, progress)
    print(json.dumps(result)) if options.json else _print_tables(Console(), result)


def _measure(
    stack: Stack,
    conn: psycopg.Connection,
    vectors: VectorSet,
    options: argparse.Namespace,
    progress: Console,
) -> dict[str, Any]:
    """Fill, build both indexes, bring them to one recall, and ask them under load."""
    queries = save_queries(stack, vectors)
    progress.print(f"filling and mirroring {len(vectors.rows):,} rows")
    searched = fill(stack, conn, vectors)
    progress.print("building pgvector's HNSW")
    built_s = build_hnsw(conn, vectors.metric)
    recalls, ef_search = _same_recall(stack, conn, searched, options)
    runs = []
    for concurrency in options.concurrency:
        common = {"concurrency": concurrency, "seconds": options.seconds}
        for form in FORMS:
            progress.print(f"{form}, {concurrency} connections")
            run = http_load(stack, searched.name, queries, form=form, **common)
            runs.append({"who": f"vecmirror {form}", **run})
        progress.print(f"pgvector, {concurrency} connections")
        run = pgbench_load(
            stack,
            search_sql(vectors.metric, asked_vector()),
            len(vectors.queries),
            {"hnsw.ef_search": str(ef_search)},
            **common,
        )
        runs.append({"who": "pgvector hnsw", **run})
    return {
        "qps": _by_who(runs),
        "ratios": _ratios(runs),
        f"recall_at_{HITS}": recalls,
        "first_search": _first_searches(stack, searched),
        "build_s": {"vecmirror": round(searched.trained_s, 1), "pgvector": round(built_s, 1)},
        **{"set": vectors.name, "metric": vectors.metric, "rows": len(vectors.rows)},
        **{"dim": vectors.rows.shape[1], "ef_search": ef_search},
        "runs": runs,
        "machine": machine(conn),
    }


def _same_recall(
    stack: Stack, conn: psycopg.Connection, searched: Searched, options: argparse.Namespace
) -> tuple[dict[str, float], int]:
    """Return both recalls, and the ef_search that brings pgvector's up to ours."""
    metric, queries = searched.vectors.metric, searched.vectors.queries[:RECALL_QUERIES]
    truth = exact(searched, queries)
    ours = recall(truth, found_by_http(stack, searched.name, queries))
    if options.ef_search is None:
        ef_search, theirs = least_ef_search(conn, metric, queries, truth, ours)
    else:
        ef_search = options.ef_search
        set_local(conn, {"hnsw.ef_search": str(ef_search)})
        theirs = recall(truth, found_by_sql(conn, metric, queries))
    return {"vecmirror": ours, "pgvector": theirs}, ef_search


def _first_searches(stack: Stack, searched: Searched) -> dict[str, Any]:
    """Start the server anew; return the times of its first searches once it is ready."""
    stack.restart_server()
    queries, took_ms = searched.vectors.queries, []
    for i in range(FIRST_SEARCHES):
        body = {"vector": queries[i % len(queries)].tolist(), "k": HITS}
        began_s = time.perf_counter()
        stack.client.search(searched.name, body)
        took_ms.append((time.perf_counter() - began_s) * 1e3)
    median = float(np.median(took_ms))
    return {
        "first_ms": round(took_ms[0], 3),
        "median_ms": round(median, 3),
        "ratio": round(took_ms[0] / median, 2),
    }


def save_queries(stack: Stack, vectors: VectorSet) -> Path:
    """Write the queries where drivers find them."""
    path = stack.folder / "queries.npy"
    np.save(path, vectors.queries)
    return path


def wanted_vectors(options: argparse.Namespace) -> VectorSet:
    """Return the set that the command line names, or random rows around random centres."""
    if options.data is not None:
        return load_set(options.data, options.name, options.rows, queries=1000)
    metric: Metric = "l2"
    rng = np.random.default_rng(7)
    centres = random_vectors(rng, 200, options.dim)
    rows = options.rows + 1000
    near = centres[rng.integers(0, len(centres), rows)] + random_vectors(rng, rows, options.dim)
    return VectorSet("random", metric, near[: options.rows], near[options.rows :])


def _by_who(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for run in runs:
        found.setdefault(run["who"], {})[str(run["concurrency"])] = run["qps"]
    return found


def _ratios(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return our rates over pgvector's, by form and connections."""
    by_who = _by_who(runs)
    theirs = by_who["pgvector hnsw"]
    return {
        form: {c: round(qps / theirs[c], 2) for c, qps in by_who[f"vecmirror {form}"].items()}
        for form in FORMS
    }


def _print_tables(console: Console, result: dict[str, Any]) -> None:
    recalls, built = result[f"recall_at_{HITS}"], result["build_s"]
    title = f"{result['set']}: {result['rows']:,} rows of {result['dim']} dimensions, k = {HITS}"
    table = Table(title=f"{title}, ef_search = {result['ef_search']}")
    headings = ("", "conns", "qps", "p50 ms", "p99 ms", "CPU ms", "driver", "recall")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    shown: list[tuple[str, Callable[[Any], str]]] = [
        *(("concurrency", str), ("qps", "{:,.0f}".format)),
        *((key, "{:.2f}".format) for key in ("p50_ms", "p99_ms")),
        *((key, "{:.3f}".format) for key in ("server_cpu_ms", "driver_cpu_ms")),
    ]
    for run in result["runs"]:
        cells = [form(run[key]) for key, form in shown]
        table.add_row(run["who"], *cells, f"{recalls[run['who'].split()[0]]:.3f}")
    console.print(table)
    first = result["first_search"]
    console.print(
        f"copied and trained in {built['vecmirror']} s; HNSW built in {built['pgvector']} s; "
        f"first search after ready {first['first_ms']} ms, median {first['median_ms']} ms"
    )
    where = result["machine"].items()
    console.print(", ".join(f"{name} {value}" for name, value in where), style="dim")


def parser(description: str) -> argparse.ArgumentParser:
    """Return the command line that the benchmarks of searches over a table share."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--data", type=Path, help="folder of the vector sets; without: random rows")
    made.add_argument("--set", choices=sorted(METRICS), default="text", dest="name")
    made.add_argument("--rows", type=int, default=80_000, help="rows of the table, at most")
    made.add_argument("--dim", type=int, default=384, help="of random vectors")
    made.add_argument("--concurrency", type=_numbers, default=(1, 8, 64), help="default: 1,8,64")
    made.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    made.add_argument("--ef-search", type=int, help="of HNSW; default: the least for our recall")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
