"""The engine's oracle: every distance by the formulas of pgvector's operators, every row sorted."""

from __future__ import annotations

import numpy as np

from gpu.arrays import F32, F64, I64, Bool
from gpu.params import Metric


def all_distances(metric: Metric, queries: F32, rows: F32) -> F32:
    """Return f32[q, n], computed in float64 one pair of matrices at a time."""
    wide_queries, wide_rows = queries.astype(np.float64), rows.astype(np.float64)
    out: F64 = np.stack([_to_all(metric, query, wide_rows) for query in wide_queries])
    with np.errstate(over="ignore"):
        return out.astype(np.float32)


def _to_all(metric: Metric, query: F64, rows: F64) -> F64:
    distances: F64
    if metric == "l2":
        distances = np.sqrt(((rows - query) ** 2).sum(axis=1))
    elif metric == "ip":
        distances = 0.0 - rows @ query
    else:
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = rows @ query / (np.linalg.norm(rows, axis=1) * np.linalg.norm(query))
        distances = 1 - np.clip(cosines, -1, 1)
    return distances


#: Below it a card may say 0 (CUDA's -ftz=true), and what is 0 is a tie.
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


def nearest(
    metric: Metric, queries: F32, rows: F32, allowed: Bool, k: int
) -> tuple[list[I64], list[F32]]:
    """Return per query the ids and distances of its min(k, allowed) hits: NaN last, ties by id."""
    distances = all_distances(metric, queries, rows)
    ids = np.flatnonzero(allowed)
    orders = [ids[np.lexsort((ids, row[ids]))][:k] for row in distances]
    return orders, [row[order] for row, order in zip(distances, orders, strict=True)]


def assert_same_hits(
    found: tuple[I64, F32], expected: tuple[list[I64], list[F32]], rtol: float = 1e-5
) -> None:
    """Compare hits by distance, and ids wherever distances leave no doubt about their order."""
    for ids, distances, true_ids, true_distances in zip(*found, *expected, strict=True):
        there = ids >= 0
        assert np.count_nonzero(there) == len(true_ids)
        assert len(np.unique(ids[there])) == len(true_ids)
        scale = np.nanmax(np.abs(true_distances), initial=1e-30)
        np.testing.assert_allclose(
            distances[there], true_distances, rtol=rtol, atol=rtol * float(scale) * 0.1
        )
        np.testing.assert_array_equal(ids[~there], -1)
        for place in np.flatnonzero(ids[there] != true_ids):
            np.testing.assert_allclose(
                distances[place], true_distances[place], rtol=rtol, atol=SMALLEST_NORMAL
            )
