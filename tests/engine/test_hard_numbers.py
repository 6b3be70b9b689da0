"""Data that breaks naive float32 or float16 arithmetic: the codec must not lose recall on it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gpu import Backend, Index, IndexParams, measure_recall
from gpu.arrays import F32

MakeTrained = Callable[[IndexParams, F32, Backend], Index]
DIM = 32


def base() -> tuple[F32, F32]:
    """Rows and queries around 20 centres, norms near 500, as image descriptors have."""
    rng = np.random.default_rng(0)
    centres = rng.gamma(1, 60, size=(20, DIM))
    rows = centres[rng.integers(0, 20, 2500)] + rng.normal(size=(2500, DIM)) * 25
    queries = centres[rng.integers(0, 20, 60)] + rng.normal(size=(60, DIM)) * 25
    return rows.astype(np.float32), queries.astype(np.float32)


def as_is(rows: F32, queries: F32) -> tuple[F32, F32]:
    return rows, queries


def offset(rows: F32, queries: F32) -> tuple[F32, F32]:
    return rows + np.float32(1e4), queries + np.float32(1e4)


def large(rows: F32, queries: F32) -> tuple[F32, F32]:
    return rows * np.float32(20), queries * np.float32(20)


def tiny(rows: F32, queries: F32) -> tuple[F32, F32]:
    return rows * np.float32(1e-7), queries * np.float32(1e-7)


def huge(rows: F32, queries: F32) -> tuple[F32, F32]:
    return rows * np.float32(1e15), queries * np.float32(1e15)


def mixed_scales(rows: F32, queries: F32) -> tuple[F32, F32]:
    rows[::2] *= 1e4
    queries[::2] *= 1e4
    return rows, queries


def unequal_norms(rows: F32, queries: F32) -> tuple[F32, F32]:
    rng = np.random.default_rng(1)
    rows *= rng.lognormal(0, 1.5, size=(len(rows), 1)).astype(np.float32)
    queries *= rng.lognormal(0, 1.5, size=(len(queries), 1)).astype(np.float32)
    return rows, queries


def outliers(rows: F32, queries: F32) -> tuple[F32, F32]:
    rows[:5] *= 1e6
    return rows, queries


def far_clusters(rows: F32, queries: F32) -> tuple[F32, F32]:
    rng = np.random.default_rng(2)
    places = rng.normal(size=(10, DIM)) * 4e4
    rows += places[rng.integers(0, 10, len(rows))].astype(np.float32)
    queries += places[rng.integers(0, 10, len(queries))].astype(np.float32)
    return rows, queries


def duplicates(rows: F32, queries: F32) -> tuple[F32, F32]:
    rows[np.random.default_rng(3).random(len(rows)) < 0.75] = rows[0]
    return rows, queries


CASES = [
    (as_is, "l2", 0.97),
    (offset, "l2", 0.97),
    (large, "l2", 0.97),
    (tiny, "l2", 0.97),
    (huge, "l2", 0.97),
    (mixed_scales, "l2", 0.97),
    (unequal_norms, "l2", 0.97),
    (unequal_norms, "ip", 0.95),
    (unequal_norms, "cosine", 0.97),
    (outliers, "l2", 0.97),
    (far_clusters, "l2", 0.95),
    (duplicates, "l2", 0.95),
    (as_is, "ip", 0.97),
]


@pytest.mark.parametrize(
    ("change", "metric", "floor"), CASES, ids=[f"{c[0].__name__}-{c[1]}" for c in CASES]
)
def test_codes_keep_their_recall(
    change: Callable[[F32, F32], tuple[F32, F32]],
    metric: str,
    floor: float,
    make_trained: MakeTrained,
    backend: Backend,
) -> None:
    rows, queries = change(*base())
    params = IndexParams(dim=DIM, metric=metric, nlist=16, m=16)  # type: ignore[arg-type]
    state = make_trained(params, rows, backend).state
    assert measure_recall(state, queries, 10, nprobe=16, rerank=100) >= floor
    full = state.search(queries, 10, nprobe=16, rerank=len(rows))
    exact = state.search(queries, 10, exact=True)
    np.testing.assert_array_equal(full.ids, exact.ids)
    np.testing.assert_array_equal(full.distances, exact.distances)


def test_all_rows_equal(make_trained: MakeTrained, backend: Backend) -> None:
    rows = np.full((700, 6), 3, np.float32)
    state = make_trained(IndexParams(dim=6, metric="l2", nlist=8, m=3), rows, backend).state
    hits = state.search(rows[:2], 5, nprobe=8, rerank=700)
    np.testing.assert_array_equal(hits.ids, [np.arange(5)] * 2)
    np.testing.assert_array_equal(hits.distances, np.zeros((2, 5)))
