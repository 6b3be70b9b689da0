"""Exact search: the answer of a loop over all pairs, whatever the numbers look like."""

from __future__ import annotations

import numpy as np
import pytest

from gpu import Backend, BadInput, Index, IndexParams, Metric
from gpu.arrays import F32
from tests.brute_force import assert_same_hits, nearest

METRICS: list[Metric] = ["l2", "cosine", "ip"]


def make_index(metric: Metric, rows: F32, backend: Backend, raw: str = "float32") -> Index:
    params = IndexParams(dim=rows.shape[1], metric=metric, raw_dtype=raw)  # type: ignore[arg-type]
    index = Index(params, backend)
    index.add(rows)
    index.publish()
    return index


def cloud(n: int, dim: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("offset", "scale"), [(0, 1), (1e4, 1), (0, 1e15), (0, 1e18), (0, 1e-20), (300, 1e4)]
)
@pytest.mark.parametrize("k", [1, 10, 700])
def test_every_hit_is_the_one_of_a_loop_over_all_pairs(
    metric: Metric, offset: float, scale: float, k: int, backend: Backend
) -> None:
    rows = ((cloud(600, 24) + offset) * scale).astype(np.float32)
    queries = ((cloud(5, 24, seed=1) + offset) * scale).astype(np.float32)
    rows[20:30] = rows[3]
    state = make_index(metric, rows, backend).state
    hits = state.search(queries, k)
    expected = nearest(metric, queries, rows, np.ones(600, np.bool_), k)
    assert_same_hits((hits.ids, hits.distances), expected)


@pytest.mark.parametrize("metric", METRICS)
def test_far_clusters_and_outliers_do_not_hide_near_rows(metric: Metric, backend: Backend) -> None:
    rows = cloud(500, 16)
    rows[250:] += 1e5
    rows[7] *= 1e9
    queries = rows[[1, 300]] + cloud(2, 16, seed=2)
    hits = make_index(metric, rows, backend).state.search(queries, 20)
    expected = nearest(metric, queries, rows, np.ones(500, np.bool_), 20)
    assert_same_hits((hits.ids, hits.distances), expected)


@pytest.mark.parametrize("metric", METRICS)
def test_equal_distances_come_in_row_id_order(metric: Metric, backend: Backend) -> None:
    rows = np.repeat(cloud(3, 8), 50, axis=0)
    hits = make_index(metric, rows, backend).state.search(rows[:1], 150)
    for start in range(0, 150, 50):
        ids = hits.ids[0, start : start + 50]
        np.testing.assert_array_equal(ids, np.arange(ids[0], ids[0] + 50))


def test_zero_rows_have_distance_nan_under_cosine_and_come_last(backend: Backend) -> None:
    rows = cloud(10, 4)
    rows[[2, 5]] = 0
    hits = make_index("cosine", rows, backend).state.search(cloud(1, 4, seed=3), 12)
    np.testing.assert_array_equal(hits.ids[0, 8:], [2, 5, -1, -1])
    assert np.isnan(hits.distances[0, 8:10]).all()
    assert np.isfinite(hits.distances[0, :8]).all()
    assert np.isinf(hits.distances[0, 10:]).all()


def test_a_zero_query_under_cosine_gives_nan_for_every_row(backend: Backend) -> None:
    queries = np.stack([np.zeros(4, np.float32), np.ones(4, np.float32)])
    hits = make_index("cosine", cloud(6, 4), backend).state.search(queries, 3)
    np.testing.assert_array_equal(hits.ids[0], [0, 1, 2])
    assert np.isnan(hits.distances[0]).all()
    assert np.isfinite(hits.distances[1]).all()


def test_float16_rows_are_compared_as_stored(backend: Backend) -> None:
    rows, queries = cloud(200, 12), cloud(3, 12, seed=4)
    state = make_index("l2", rows, backend, raw="float16").state
    stored = rows.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(state.vectors(np.arange(200)), stored)
    hits = state.search(queries, 5)
    expected = nearest("l2", queries, stored, np.ones(200, np.bool_), 5)
    assert_same_hits((hits.ids, hits.distances), expected)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_a_masked_search_returns_min_k_matches_rows(share: float, backend: Backend) -> None:
    rows, queries = cloud(400, 6), cloud(4, 6, seed=5)
    index = make_index("l2", rows, backend)
    index.kill(np.arange(0, 400, 3))
    state = index.publish()
    mask = np.random.default_rng(6).random(400) < share
    hits = state.search(queries, 30, mask=mask)
    expected = nearest("l2", queries, rows, mask & state.alive(), 30)
    assert_same_hits((hits.ids, hits.distances), expected)


def test_many_queries_and_blocks_agree_with_single_queries(backend: Backend) -> None:
    rows, queries = cloud(9000, 3), cloud(600, 3, seed=7)
    state = make_index("l2", rows, backend).state
    together = state.search(queries, 4)
    for i in range(0, 600, 97):
        alone = state.search(queries[i : i + 1], 4)
        np.testing.assert_array_equal(alone.ids[0], together.ids[i])
        np.testing.assert_array_equal(alone.distances[0], together.distances[i])


def test_an_empty_index_has_no_hits(backend: Backend) -> None:
    state = Index(IndexParams(dim=3, metric="cosine"), backend).state
    hits = state.search(np.zeros((2, 3), np.float32), 4)
    np.testing.assert_array_equal(hits.ids, np.full((2, 4), -1))
    assert state.search(np.zeros((0, 3), np.float32), 4).ids.shape == (0, 4)
    assert list(state.iterate(np.ones(3, np.float32))) == []


def test_16000_dimensions_are_exact(backend: Backend) -> None:
    rows, queries = cloud(40, 16_000), cloud(2, 16_000, seed=8)
    hits = make_index("l2", rows, backend).state.search(queries, 5)
    expected = nearest("l2", queries, rows, np.ones(40, np.bool_), 5)
    assert_same_hits((hits.ids, hits.distances), expected)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.zeros((1, 4), np.float32), "queries must be"),
        (np.zeros(3, np.float32), "queries must be"),
        (np.full((1, 3), np.nan, np.float32), "not finite"),
        (np.full((1, 3), np.inf, np.float32), "not finite"),
    ],
)
def test_bad_queries_are_refused(queries: F32, message: str, backend: Backend) -> None:
    state = make_index("l2", cloud(5, 3), backend).state
    with pytest.raises(BadInput, match=message):
        state.search(queries, 1)


@pytest.mark.parametrize(
    "options",
    [{"k": 0}, {"k": 1, "nprobe": 0}, {"k": 1, "rerank": 0}, {"k": 1, "recall_target": 1.5}],
)
def test_numbers_out_of_range_are_refused(options: dict[str, int], backend: Backend) -> None:
    state = make_index("l2", cloud(5, 3), backend).state
    with pytest.raises(BadInput):
        state.search(cloud(1, 3), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mask", [np.ones(4, np.bool_), np.ones(5, np.uint8)])
def test_a_mask_of_another_shape_or_type_is_refused(mask: F32, backend: Backend) -> None:
    state = make_index("l2", cloud(5, 3), backend).state
    with pytest.raises(BadInput, match="mask must be"):
        state.search(cloud(1, 3), 1, mask=mask)  # type: ignore[arg-type]
