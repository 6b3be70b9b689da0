"""One table for both sides: mirrored and trained here, with an HNSW index of pgvector there.

The table is (id int8, embedding vector(d), bucket int4): ``bucket`` is a random number below
``BUCKETS``, so that ``bucket < n`` keeps the share n / BUCKETS of the rows, whatever their vectors.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from gpu import Metric

from .rows import BLOCK_ROWS, copy_body
from .stack import BenchmarkFailed, Stack
from .throughput import TIMEOUT_S
from .vector_sets import VectorSet
from .writer import vector_text

TABLE, ASKED = "searched", "asked"
BUCKETS = 10_000
HITS = 10
TRAIN_FROM_ROWS = 20_000
#: pgvector's operator and the operator class of its indexes, by metric.
OPERATORS: dict[Metric, str] = {"l2": "<->", "cosine": "<=>", "ip": "<#>"}
CLASSES: dict[Metric, str] = {
    "l2": "vector_l2_ops",
    "cosine": "vector_cosine_ops",
    "ip": "vector_ip_ops",
}
#: Values of hnsw.ef_search that are tried for a recall; 1000 is the largest there is.
EF_SEARCH = (20, 30, 40, 50, 60, 80, 100, 120, 160, 200, 300, 400, 600, 800, 1000)

Vectors = NDArray[np.float32]
#: The ids that were found, of each query.
Found = list[set[int]]


@dataclass(frozen=True, slots=True)
class Searched:
    """The filled table: ``vectors`` with ids 1, 2, ..., their buckets i4[n], and its index."""

    vectors: VectorSet
    buckets: NDArray[np.int32]
    name: str
    trained_s: float


def fill(stack: Stack, conn: psycopg.Connection, vectors: VectorSet) -> Searched:
    """Fill the table and the queries' table, mirror the first, and wait until it is trained."""
    dim = vectors.rows.shape[1]
    bucket = sql.SQL("bucket int4 DEFAULT floor(random() * {})").format(sql.Literal(BUCKETS))
    _create(conn, TABLE, dim, [bucket])
    _create(conn, ASKED, dim, [])
    for table, rows in ((TABLE, vectors.rows), (ASKED, vectors.queries)):
        for start in range(0, len(rows), BLOCK_ROWS):
            _copy(conn, table, copy_body(start + 1, rows[start : start + BLOCK_ROWS]))
        conn.execute(sql.SQL("VACUUM (FREEZE, ANALYZE) {}").format(sql.Identifier(table)))
    conn.execute("CHECKPOINT")
    found = conn.execute(sql.SQL("SELECT bucket FROM {} ORDER BY id").format(_table())).fetchall()
    began_s = time.perf_counter()
    name = stack.attach(TABLE, vectors.metric, ["bucket"])
    trained_s = _wait_trained(stack, name, began_s)
    return Searched(vectors, np.array(found, np.int32)[:, 0], name, trained_s)


def build_hnsw(conn: psycopg.Connection, metric: Metric) -> float:
    """Build the index with pgvector's defaults (m 16, ef_construction 64); return the seconds."""
    conn.execute("SET maintenance_work_mem = '1GB'")
    began_s = time.perf_counter()
    query = sql.SQL("CREATE INDEX ON {} USING hnsw (embedding {})")
    conn.execute(query.format(_table(), sql.SQL(CLASSES[metric])))
    return time.perf_counter() - began_s


def search_sql(metric: Metric, vector: str, below: int | None = None) -> str:
    """Return the SELECT of the nearest rows to ``vector``, an SQL expression; with a filter."""
    where = "" if below is None else f"WHERE bucket < {below} "
    operator = OPERATORS[metric]
    return (
        f"SELECT id, embedding {operator} {vector} AS distance FROM {TABLE} {where}"
        f"ORDER BY embedding {operator} {vector} LIMIT {HITS}"
    )


def exact(searched: Searched, queries: Vectors, below: int | None = None) -> Found:
    """Return the ids of the true nearest rows of each query, among those that a filter keeps."""
    rows, metric = searched.vectors.rows, searched.vectors.metric
    kept = np.arange(len(rows)) if below is None else np.flatnonzero(searched.buckets < below)
    return [set((kept[near] + 1).tolist()) for near in exact_nearest(rows[kept], queries, metric)]


def exact_nearest(rows: Vectors, queries: Vectors, metric: Metric) -> list[NDArray[np.int64]]:
    """Return the places of the HITS nearest rows of each query."""
    norms = np.einsum("nd,nd->n", rows, rows)
    unit = rows / np.maximum(np.sqrt(norms), 1e-30)[:, None] if metric == "cosine" else rows
    found = []
    for query in queries:
        product = unit @ query
        distances = norms - 2 * product if metric == "l2" else -product
        found.append(np.argpartition(distances, min(HITS, len(rows)) - 1)[:HITS])
    return found


def found_by_http(stack: Stack, name: str, queries: Vectors, below: int | None = None) -> Found:
    """Return what the server answers to each query."""
    more = {} if below is None else {"filter": f"bucket < {below}"}
    answers = (
        stack.client.search(name, {"vector": query.tolist(), "k": HITS, **more})
        for query in queries
    )
    return [{hit["key"] for hit in answer["hits"]} for answer in answers]


def found_by_sql(
    conn: psycopg.Connection, metric: Metric, queries: Vectors, below: int | None = None
) -> Found:
    """Return what Postgres answers to each query."""
    query = search_sql(metric, "%(v)s::vector", below).encode()
    rows = (conn.execute(query, {"v": vector_text(vector)}).fetchall() for vector in queries)
    return [{row[0] for row in each} for each in rows]


def recall(truth: Found, found: Found) -> float:
    """Return the share of the true nearest rows that were found."""
    shared = sum(len(a & b) for a, b in zip(truth, found, strict=True))
    return round(shared / max(1, sum(map(len, truth))), 4)


def set_local(conn: psycopg.Connection, settings: dict[str, str]) -> None:
    """Set parameters of the session."""
    for name, value in settings.items():
        conn.execute("SELECT set_config(%s, %s, false)", (name, value))


def least_ef_search(
    conn: psycopg.Connection,
    metric: Metric,
    queries: Vectors,
    truth: Found,
    goal: float,
    below: int | None = None,
    values: Sequence[int] = EF_SEARCH,
) -> tuple[int, float]:
    """Return the least hnsw.ef_search whose recall reaches ``goal`` or the last, and the recall."""
    reached = 0.0
    for value in values:
        set_local(conn, {"hnsw.ef_search": str(value)})
        reached = recall(truth, found_by_sql(conn, metric, queries, below))
        if reached >= goal:
            return value, reached
    return values[-1], reached


def _create(conn: psycopg.Connection, table: str, dim: int, more: Iterable[sql.Composable]) -> None:
    columns = [
        sql.SQL("id int8 PRIMARY KEY"),
        sql.SQL("embedding vector({}) NOT NULL").format(sql.Literal(dim)),
        *more,
    ]
    query = sql.SQL("CREATE TABLE {} ({})")
    conn.execute(query.format(sql.Identifier(table), sql.SQL(", ").join(columns)))


def _copy(conn: psycopg.Connection, table: str, body: bytes) -> None:
    query = sql.SQL("COPY {} (id, embedding) FROM STDIN (FORMAT binary)")
    with conn.cursor() as cursor, cursor.copy(query.format(sql.Identifier(table))) as copy:
        copy.write(body)


def _table() -> sql.Identifier:
    return sql.Identifier(TABLE)


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
