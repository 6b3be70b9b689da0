"""``python -m benchmarks.churn``: how an index searches before, while and after rows change.

A share of the rows is replaced by other rows of the same set, in transactions, with everything that
a mirror does by itself switched on. At the same number of probed lists and re-ranked rows it is
then held against an index built anew from the rows there are. No HTTP, no Postgres.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from gpu import Index, IndexState, measure_recall, train
from server.mirror import Mirror, MirrorOptions

from .feeding import Feeder, opened
from .report import host
from .vector_sets import METRICS, VectorSet, load_set

K = 10
TRANSACTION_ROWS = 1_000
#: Measurements of one figure; the median counts.
ROUNDS = 5
#: Queries whose exact neighbours are looked for while rows change: brute force takes time too.
SAMPLED_QUERIES = 32
PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Searched:
    """Recall of the K nearest, and queries a second: one by one, and all in one call."""

    recall: float
    single_qps: float
    batch_qps: float


@dataclass(frozen=True, slots=True)
class Changing:
    """Searches while rows change: one by one, on whatever state is the newest."""

    recall: float
    single_qps: float
    slowest_search_ms: float
    rows_per_s: int
    slowest_commit_ms: float


@dataclass(frozen=True, slots=True)
class Depth:
    """How closely every search looks: the plan of the index before the changes."""

    nprobe: int
    rerank: int


def run(vectors: VectorSet, share: float, target: float) -> dict[str, Any]:
    """Measure everything; return the JSON object."""
    n_rows = int(len(vectors.rows) / (1 + share))
    changed = len(vectors.rows) - n_rows
    dim = vectors.rows.shape[1]
    with opened(dim, vectors.metric, MirrorOptions(compact_dead_rows=1000)) as feeder:
        mirror = feeder.mirror
        feeder.copy(vectors.rows[:n_rows])
        _train(mirror)
        depth = _depth(mirror.state.index, target)
        before = _measured(mirror.state.index, vectors.queries, depth)
        codec = _codec(mirror)
        during = _while_changing(feeder, vectors, n_rows, depth)
        settle_s = _settle(mirror)
        after = _measured(mirror.state.index, vectors.queries, depth)
        retrained = _codec(mirror) is not codec
        figures = {key: mirror.describe()[key] for key in ("row_ids", "dead_rows", "drift")}
        fresh, build_s = _fresh(mirror.state.index, vectors.queries, depth)
    return {
        "set": vectors.name,
        "rows": n_rows,
        "dim": dim,
        "replaced": changed,
        "k": K,
        **asdict(depth),
        "before": asdict(before),
        "during": asdict(during),
        "after": asdict(after),
        "fresh": {**asdict(fresh), "build_s": build_s},
        "recall_lost": round(fresh.recall - after.recall, 4),
        "retrained": retrained,
        "settle_s": settle_s,
        **figures,
        "machine": host(),
    }


def _train(mirror: Mirror) -> None:
    """Wait for the first training, started by hand where the rows are few."""
    mirror.start_training()
    while not mirror.state.index.trained:
        time.sleep(PAUSE_S)
    _settle(mirror)


def _codec(mirror: Mirror) -> object:
    trained = mirror.state.index.trained_part
    return None if trained is None else trained.codec


def _depth(index: IndexState, target: float) -> Depth:
    assert index.trained_part is not None
    return Depth(*index.trained_part.plan.choose(K, target))


def _settle(mirror: Mirror) -> float:
    """Wait until the mirror has nothing more to do by itself; return the seconds."""
    began = time.perf_counter()
    while True:
        index, busy = mirror.state.index, mirror.describe()["upkeep"]
        due = index.rewrite_due or mirror.compaction_due() or index.encoded_rows < index.n_rows
        if not busy and not due:
            return round(time.perf_counter() - began, 2)
        time.sleep(PAUSE_S)


def _measured(index: IndexState, queries: NDArray[np.float32], depth: Depth) -> Searched:
    how = asdict(depth)
    singles, batches = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for query in queries:
            index.search(query[None], K, **how)
        singles.append(len(queries) / (time.perf_counter() - began))
        began = time.perf_counter()
        index.search(queries, K, **how)
        batches.append(len(queries) / (time.perf_counter() - began))
    recall = measure_recall(index, queries, K, **how)
    return Searched(round(recall, 4), *(round(float(np.median(x)), 1) for x in (singles, batches)))


def _while_changing(feeder: Feeder, vectors: VectorSet, n_rows: int, depth: Depth) -> Changing:
    """Replace rows in one thread, search in this one."""
    commits: list[float] = []
    changing = threading.Thread(target=_replace, args=(feeder, vectors.rows, n_rows, commits))
    how, states = asdict(depth), [feeder.mirror.state.index]
    took: list[float] = []
    changing.start()
    while changing.is_alive():
        query = vectors.queries[len(took) % len(vectors.queries)]
        began = time.perf_counter()
        index = feeder.mirror.state.index
        index.search(query[None], K, **how)
        took.append(time.perf_counter() - began)
        if len(took) % 100 == 50 and len(states) < ROUNDS:
            states.append(index)
    changing.join()
    sample = vectors.queries[:SAMPLED_QUERIES]
    recalls = [measure_recall(state, sample, K, **how) for state in states]
    return Changing(
        round(float(np.mean(recalls)), 4),
        round(len(took) / sum(took), 1),
        round(max(took) * 1e3, 1),
        round((len(vectors.rows) - n_rows) / sum(commits)),
        round(max(commits) * 1e3, 1),
    )


def _replace(feeder: Feeder, rows: NDArray[np.float32], n_rows: int, commits: list[float]) -> None:
    keys = np.random.default_rng(1).permutation(n_rows)[: len(rows) - n_rows]
    for first in range(0, len(keys), TRANSACTION_ROWS):
        part = keys[first : first + TRANSACTION_ROWS]
        began = time.perf_counter()
        feeder.commit(part, rows[n_rows + first : n_rows + first + len(part)])
        commits.append(time.perf_counter() - began)


def _fresh(index: IndexState, queries: NDArray[np.float32], depth: Depth) -> tuple[Searched, float]:
    """Build an index of the rows there are, and measure it at the same depth."""
    fresh = Index(index.params, index.backend)
    fresh.add(index.vectors(np.flatnonzero(index.alive())))
    state = fresh.publish()
    began = time.perf_counter()
    fresh.adopt(train(state))
    build_s = round(time.perf_counter() - began, 2)
    return _measured(fresh.state, queries, depth), build_s


def print_table(console: Console, result: dict[str, Any]) -> None:
    """Print the four searches side by side."""
    title = (
        f"{result['set']}: {result['replaced']:,} of {result['rows']:,} rows replaced; "
        f"nprobe {result['nprobe']}, rerank {result['rerank']}"
    )
    table = Table(title=title)
    for heading in ("", "recall@10", "single QPS", "batch QPS"):
        table.add_column(heading, justify="right" if heading else "left")
    for phase in ("before", "during", "after", "fresh"):
        one = result[phase]
        batch = f"{one['batch_qps']:,.0f}" if "batch_qps" in one else ""
        table.add_row(phase, f"{one['recall']:.4f}", f"{one['single_qps']:,.0f}", batch)
    console.print(table)
    during = result["during"]
    console.print(
        f"rows changed a second {during['rows_per_s']:,}, slowest commit "
        f"{during['slowest_commit_ms']} ms, slowest search meanwhile {during['slowest_search_ms']} "
        f"ms; recall lost {result['recall_lost']}; retrained: {result['retrained']}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the vector sets")
    parser.add_argument("--set", choices=sorted(METRICS), default="sift", dest="name")
    parser.add_argument("--rows", type=int, help="rows of the set to use, replacements included")
    parser.add_argument("--share", type=float, default=0.3, help="share of the rows to replace")
    parser.add_argument(
        "--target", type=float, default=0.95, help="recall the depth is planned for"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if not 0 < options.share <= 1:
        parser.error("--share must be above 0 and at most 1")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    vectors = load_set(options.data, options.name, options.rows)
    result = run(vectors, options.share, options.target)
    if options.json:
        print(json.dumps(result))
    else:
        print_table(Console(), result)


if __name__ == "__main__":
    main()
