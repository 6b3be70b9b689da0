"""Searches with filters: ``python -m benchmarks.filtered``.

For filters that keep 50, 10, 1 and 0.1 % of the rows: queries a second and recall of the ten
nearest, in the engine by itself, through the server, and in pgvector's iterative scan, beside the
same search without a filter. benchmarks/README.md says what each figure is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
from rich.console import Console
from rich.table import Table

from gpu import Index, IndexParams, IndexState, PackedMask, measure_recall, train, warm_up
from server.demo.binaries import PostgresUnavailable

from .http import parser, save_queries, wanted_vectors
from .loads import asked_vector, http_load, pgbench_load
from .report import host, machine
from .searched import (
    BUCKETS,
    HITS,
    TRAIN_FROM_ROWS,
    Searched,
    build_hnsw,
    exact,
    fill,
    found_by_http,
    least_ef_search,
    recall,
    search_sql,
    set_local,
)
from .stack import Stack
from .vector_sets import VectorSet

#: Shares of the rows that filters keep.
SHARES = (0.5, 0.1, 0.01, 0.001)
ROUNDS = 7
SINGLE_QUERIES, BATCH_QUERIES = 200, 200
RECALL_QUERIES = 200
#: Queries that pgvector is brought to the recall with: each takes it tens of milliseconds.
TUNING_QUERIES = 60
GOAL = 0.95
#: Relaxed order is the faster of its two; the scan may visit every row.
ITERATIVE = {
    "hnsw.iterative_scan": "relaxed_order",
    "hnsw.max_scan_tuples": "1000000",
    "enable_seqscan": "off",
}
#: hnsw.ef_search is where an iterative scan begins, and by how much it goes on.
ITERATIVE_EF_SEARCH = (40, 100, 200, 400)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print tables or, with --json, one object."""
    made = parser(__doc__ or "")
    made.add_argument("--engine-only", action="store_true", help="no server and no Postgres")
    options = made.parse_args(arguments)
    progress = Console(stderr=True, quiet=options.json, style="dim")
    vectors = wanted_vectors(options)
    progress.print(f"building an index of {len(vectors.rows):,} rows")
    result: dict[str, Any] = {
        **{"set": vectors.name, "metric": vectors.metric, "rows": len(vectors.rows)},
        **{"dim": vectors.rows.shape[1], "k": HITS},
        "engine": engine_figures(built(vectors), vectors.queries),
        "machine": host(),
    }
    if not options.engine_only:
        try:
            result |= _with_postgres(vectors, options, progress)
        except PostgresUnavailable as error:
            progress.print(f"no Postgres: {error}")
    print(json.dumps(result)) if options.json else _print_tables(Console(), result)


def built(vectors: VectorSet) -> IndexState:
    """Return a trained index of the rows, with the defaults."""
    warm_up()
    index = Index(IndexParams(dim=vectors.rows.shape[1], metric=vectors.metric))
    index.add(vectors.rows)
    index.adopt(train(index.publish()))
    return index.state


def engine_figures(
    state: IndexState, queries: np.ndarray[Any, np.dtype[np.float32]], rounds: int = ROUNDS
) -> list[dict[str, Any]]:
    """Return one row for no filter and one for each share; rounds are interleaved, medians count.

    ``latency_ratio`` is the time of one search over that of one without a filter.
    """
    rng = np.random.default_rng(11)
    buckets = rng.integers(0, BUCKETS, state.n_rows)
    flags = {share: buckets < share * BUCKETS for share in SHARES}
    masks: dict[float | None, PackedMask | None] = {None: None}
    masks |= {share: PackedMask.of(mask) for share, mask in flags.items()}
    took: dict[float | None, list[tuple[float, float]]] = {share: [] for share in masks}
    for _ in range(rounds):
        for share, mask in masks.items():
            took[share].append(_timed(state, queries, mask))
    without = float(np.median([single for single, _ in took[None]]))
    asked, rows = queries[:RECALL_QUERIES], []
    for share, times in took.items():
        single_s, batch_s = (float(np.median(column)) for column in zip(*times, strict=True))
        kept = np.ones(state.n_rows, np.bool_) if share is None else flags[share]
        matches = int((kept & state.alive()).sum())
        hits = (state.search(asked, HITS, mask=masks[share]).ids >= 0).sum(axis=1)
        found = measure_recall(state, asked, HITS, mask=None if share is None else kept)
        rows.append(
            {
                "share": share,
                "single_qps": round(1 / single_s, 1),
                "batch_qps": round(1 / batch_s, 1),
                "latency_ratio": round(single_s / without, 3),
                f"recall_at_{HITS}": round(found, 4),
                "matches": matches,
                "exact_hit_counts": bool((hits == min(HITS, matches)).all()),
            }
        )
    return rows


def _timed(
    state: IndexState,
    queries: np.ndarray[Any, np.dtype[np.float32]],
    mask: PackedMask | None,
) -> tuple[float, float]:
    """Return CPU seconds of one query alone, in this thread, and wall seconds of one in a batch."""
    singles, batch = queries[:SINGLE_QUERIES], queries[:BATCH_QUERIES]
    began_s = time.thread_time()
    for i in range(len(singles)):
        state.search(singles[i : i + 1], HITS, mask=mask)
    single_s = (time.thread_time() - began_s) / len(singles)
    began_s = time.perf_counter()
    state.search(batch, HITS, mask=mask)
    return single_s, (time.perf_counter() - began_s) / len(batch)


def _with_postgres(
    vectors: VectorSet, options: argparse.Namespace, progress: Console
) -> dict[str, Any]:
    """Return the figures of the server and of pgvector, over one table."""
    with Stack({}, min(TRAIN_FROM_ROWS, len(vectors.rows))) as stack, stack.connect() as conn:
        progress.print("filling and mirroring a table")
        searched = fill(stack, conn, vectors)
        progress.print("building pgvector's HNSW")
        build_hnsw(conn, vectors.metric)
        set_local(conn, ITERATIVE)
        rows = []
        for share in (None, *SHARES):
            below = None if share is None else round(share * BUCKETS)
            progress.print("no filter" if share is None else f"{share:.1%} of the rows")
            rows += _server_rows(stack, searched, share, below, options)
            rows.append(_pgvector_row(stack, conn, searched, share, below, options))
        return {"served": rows, "ratios": _ratios(rows), "machine": machine(conn)}


def _server_rows(
    stack: Stack,
    searched: Searched,
    share: float | None,
    below: int | None,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    asked = searched.vectors.queries[:RECALL_QUERIES]
    truth = exact(searched, asked, below)
    found = found_by_http(stack, searched.name, asked, below)
    queries = save_queries(stack, searched.vectors)
    common = {
        "who": "vecmirror json",
        "share": share,
        f"recall_at_{HITS}": recall(truth, found),
        "exact_hit_counts": [len(each) for each in found] == [len(each) for each in truth],
    }
    more = {} if below is None else {"filter": f"bucket < {below}"}
    return [
        common
        | http_load(
            stack,
            searched.name,
            queries,
            form="json",
            concurrency=concurrency,
            seconds=options.seconds,
            options=more,
        )
        for concurrency in options.concurrency
    ]


def _pgvector_row(
    stack: Stack,
    conn: psycopg.Connection,
    searched: Searched,
    share: float | None,
    below: int | None,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Measure one connection: with more, Postgres only shares the cores among them."""
    metric, asked = searched.vectors.metric, searched.vectors.queries[:TUNING_QUERIES]
    truth = exact(searched, asked, below)
    ef_search, reached = least_ef_search(
        conn, metric, asked, truth, GOAL, below, ITERATIVE_EF_SEARCH
    )
    run = pgbench_load(
        stack,
        search_sql(metric, asked_vector(), below),
        len(searched.vectors.queries),
        {**ITERATIVE, "hnsw.ef_search": str(ef_search)},
        concurrency=1,
        seconds=options.seconds,
    )
    common = {"who": "pgvector", "share": share, f"recall_at_{HITS}": reached}
    return {**common, "ef_search": ef_search, **run}


def _ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return our queries a second at one connection over pgvector's, by share."""
    theirs = {row["share"]: row["qps"] for row in rows if row["who"] == "pgvector"}
    ours = {row["share"]: row["qps"] for row in rows if row["who"] != "pgvector"
            and row["concurrency"] == 1}  # fmt: skip
    return {
        "none" if share is None else str(share): round(qps / theirs[share], 2)
        for share, qps in ours.items()
    }


def _print_tables(console: Console, result: dict[str, Any]) -> None:
    console.print(
        _table(
            f"{result['set']}: {result['rows']:,} rows of {result['dim']} dimensions, engine",
            result["engine"],
            ("share", "matches", "single_qps", "latency_ratio", "batch_qps"),
        )
    )
    if "served" in result:
        figures = ("who", "share", "concurrency", "qps", "p50_ms", "server_cpu_ms", "driver_cpu_ms")
        console.print(_table("through the server, and pgvector", result["served"], figures))
    where = result["machine"].items()
    console.print(", ".join(f"{name} {value}" for name, value in where), style="dim")


def _table(title: str, rows: list[dict[str, Any]], figures: Sequence[str]) -> Table:
    table = Table(title=title)
    names = (*figures, f"recall_at_{HITS}", "exact_hit_counts")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*("all" if row.get(n, "") is None else str(row.get(n, "")) for n in names))
    return table


if __name__ == "__main__":
    main()
