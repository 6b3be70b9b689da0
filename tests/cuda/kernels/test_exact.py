"""Exact distances, re-ranking and exact search against metrics.py and exact.py."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from gpu.arrays import F32, I64, U8, AnyArray
from gpu.cuda import exact, rerank
from gpu.cuda.exact import Asked, ExactScratch, ExactShape, Where
from gpu.cuda.layout import METRICS, RowsView
from gpu.cuda.rerank import Candidates, Hits, RerankScratch
from gpu.exact import distances_to, search_exact
from gpu.hits import SearchResult, nearest_pairs
from gpu.params import IndexParams, Metric
from gpu.rows import Rows
from tests.cuda.emulator import EmulatedDevice
from tests.cuda.kernels.cards import Card

METRIC_NAMES: tuple[Metric, ...] = ("l2", "cosine", "ip")
Raw = Literal["float32", "float16"]


class Table:
    """Rows for NumPy and on a card; padded ones are aligned to 16 bytes there."""

    def __init__(self, card: Card, metric: Metric, vectors: AnyArray, *, padded: bool) -> None:
        dtype: Raw = "float16" if vectors.dtype == np.float16 else "float32"
        self.rows = Rows(IndexParams(dim=vectors.shape[1], metric=metric, raw_dtype=dtype))
        self.rows.append(vectors)
        each = 16 // vectors.itemsize
        pad = -vectors.shape[1] % each if padded else 0
        self.view: RowsView = card.rows(vectors, METRICS[metric], pad=pad)
        self.card = card

    def hits(self, q: int, k: int) -> Hits:
        return Hits(self.card.room(8 * q * k), self.card.room(4 * q * k))

    def result(self, hits: Hits, q: int, k: int) -> SearchResult:
        ids = self.card.get(hits.ids, (q, k), np.int64)
        return SearchResult(ids, self.card.get(hits.distances, (q, k), np.float32))

    def rerank(self, queries: F32, candidates: I64, k: int) -> SearchResult:
        q, r = candidates.shape
        there = Candidates(self.card.put(candidates), q, r)
        scratch = RerankScratch(self.card.room(8 * q * r), self.card.put(np.zeros(q, np.uint32)))
        hits = self.hits(q, k)
        rerank.rerank(self.card.queue, self.view, self.card.put(queries), there, k, scratch, hits)
        return self.result(hits, q, k)

    def exact(
        self, queries: F32, k: int, where: range | I64, allowed: U8 | None, *, blocks: int = 2
    ) -> SearchResult:
        q = len(queries)
        shape = ExactShape.of(self.card.queue, q, k, len(where))
        shape = ExactShape(q, k, shape.together, blocks)
        scratch = ExactScratch(
            self.card.room(shape.run_bytes), self.card.put(np.zeros(q, np.uint32))
        )
        bitmap = 0 if allowed is None else self.card.put(np.pad(allowed, (0, 4)))
        asked = Asked(self.card.put(queries), bitmap)
        there = Where(len(where), where.start if isinstance(where, range) else 0)
        if not isinstance(where, range):
            there = Where(len(where), 0, self.card.put(where.astype(np.int32)))
        hits = self.hits(q, k)
        exact.exact(self.card.queue, self.view, asked, there, shape, scratch, hits)
        return self.result(hits, q, k)


def check_same(got: SearchResult, wanted: SearchResult) -> None:
    """Distances agree to 1e-5, ids too but where neighbouring distances nearly tie."""
    np.testing.assert_allclose(got.distances, wanted.distances, rtol=1e-5, atol=1e-6)
    different = got.ids != wanted.ids
    assert np.mean(different) < 0.05
    np.testing.assert_array_equal(got.ids < 0, wanted.ids < 0)


def made(rng: np.random.Generator, n: int, dim: int, raw: str) -> AnyArray:
    return rng.standard_normal((n, dim)).astype(raw)


SHAPES = [(1, False), (3, True), (40, True), (41, False), (200, True), (16_000, True)]


@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("raw", ["float32", "float16"])
@pytest.mark.parametrize(("dim", "padded"), SHAPES)
def test_reranking_gives_numpys_nearest(
    card: Card, rng: np.random.Generator, metric: Metric, raw: str, dim: int, padded: bool
) -> None:
    n, q, r, k = (6, 1, 5, 3) if dim > 1000 else (50, 3, 37, 11)
    table = Table(card, metric, made(rng, n, dim, raw), padded=padded)
    queries = rng.standard_normal((q, dim)).astype(np.float32)
    candidates = np.array([rng.permutation(n)[:r] for _ in range(q)])
    candidates[0, ::3] = -1
    got = table.rerank(queries, candidates, k)
    distances = distances_to(table.rows, queries, candidates)
    of, column = np.nonzero(candidates >= 0)
    wanted = nearest_pairs(q, k, of, candidates[of, column], distances[of, column])
    check_same(got, wanted)
    out = card.room(4 * q * r)
    there = Candidates(card.put(candidates), q, r)
    rerank.distances(card.queue, table.view, card.put(queries), there, out)
    np.testing.assert_allclose(card.get(out, (q, r), np.float32), distances, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", METRIC_NAMES)
def test_reranking_a_thousand_candidates(
    card: Card, rng: np.random.Generator, metric: Metric
) -> None:
    table = Table(card, metric, made(rng, 1500, 8, "float32"), padded=True)
    queries = rng.standard_normal((2, 8)).astype(np.float32)
    candidates = np.array([rng.permutation(1500)[:1024] for _ in range(2)])
    got = table.rerank(queries, candidates, 1024)
    distances = distances_to(table.rows, queries, candidates)
    of = np.repeat(np.arange(2), 1024)
    check_same(got, nearest_pairs(2, 1024, of, candidates.ravel(), distances.ravel()))


def test_nan_distances_come_last_and_stay_nan(card: Card, rng: np.random.Generator) -> None:
    table = Table(card, "cosine", made(rng, 9, 4, "float32"), padded=True)
    got = table.rerank(np.zeros((1, 4), np.float32), np.arange(9)[None], 12)
    np.testing.assert_array_equal(got.ids[0], [*range(9), -1, -1, -1])
    assert np.isnan(got.distances[0, :9]).all()
    assert np.isposinf(got.distances[0, 9:]).all()


@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("raw", ["float32", "float16"])
@pytest.mark.parametrize(("dim", "padded"), [(1, True), (19, False), (40, True)])
@pytest.mark.parametrize("q", [1, 6])
def test_exact_search_is_numpys(
    card: Card, rng: np.random.Generator, metric: Metric, raw: str, dim: int, padded: bool, q: int
) -> None:
    vectors = made(rng, 300, dim, raw)
    vectors[7] = 0
    table = Table(card, metric, vectors, padded=padded)
    queries = rng.standard_normal((q, dim)).astype(np.float32)
    got = table.exact(queries, 10, range(3, 297), None)
    check_same(got, search_exact(table.rows, queries, 10, range(3, 297)))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.6])
def test_exact_search_of_given_rows_under_a_bitmap(
    card: Card, rng: np.random.Generator, share: float
) -> None:
    table = Table(card, "l2", made(rng, 500, 12, "float32"), padded=True)
    queries = rng.standard_normal((3, 12)).astype(np.float32)
    allowed = np.packbits(rng.random(500) < share, bitorder="little")
    ids = np.sort(rng.permutation(500)[:222]).astype(np.int64)
    for where in (ids, range(500)):
        got = table.exact(queries, 30, where, allowed)
        check_same(got, search_exact(table.rows, queries, 30, where, allowed))


@pytest.mark.parametrize("k", [600, 1024])
def test_exact_search_for_a_thousand(card: Card, rng: np.random.Generator, k: int) -> None:
    table = Table(card, "ip", made(rng, 1800, 4, "float32"), padded=True)
    queries = rng.standard_normal((2, 4)).astype(np.float32)
    got = table.exact(queries, k, range(1800), None)
    check_same(got, search_exact(table.rows, queries, k, range(1800)))


def test_equal_rows_come_in_the_order_of_their_ids(card: Card) -> None:
    table = Table(card, "l2", np.ones((400, 5), np.float32), padded=False)
    got = table.exact(np.zeros((1, 5), np.float32), 50, range(400), None, blocks=3)
    np.testing.assert_array_equal(got.ids[0], np.arange(50))


@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("scale", [1e-17, 1e18])
def test_numbers_whose_squares_leave_float32_are_compared_in_float64(
    card: Card, rng: np.random.Generator, metric: Metric, scale: float
) -> None:
    vectors = (made(rng, 100, 9, "float32") * np.float32(scale)).astype(np.float32)
    table = Table(card, metric, vectors, padded=True)
    queries = (rng.standard_normal((2, 9)) * scale).astype(np.float32)
    got = table.exact(queries, 10, range(100), None)
    wanted = search_exact(table.rows, queries, 10, range(100))
    np.testing.assert_allclose(got.distances, wanted.distances, rtol=1e-5)
    np.testing.assert_array_equal(got.ids, wanted.ids)


def test_rows_beyond_four_gigabytes_are_reached_by_64_bit_offsets(
    card: Card, rng: np.random.Generator
) -> None:
    """One chunk of 2^21 rows that is said to start so far before row 1,500,000 that it fits."""
    vectors = made(rng, 8, 1600, "float32")
    first = 1_500_000
    offset = first * vectors.shape[1] * 4
    assert offset > 1 << 33
    base = card.put(vectors) - offset
    table = Table(card, "l2", vectors, padded=True)
    rows = RowsView(card.put(np.array([base], np.uint64)), 21, 6400, 1600, False, 0)
    table.view = rows
    queries = rng.standard_normal((1, 1600)).astype(np.float32)
    got = table.exact(queries, 3, range(first, first + 8), None)
    wanted = search_exact(table.rows, queries, 3, range(8))
    np.testing.assert_array_equal(got.ids, wanted.ids + first)
    np.testing.assert_allclose(got.distances, wanted.distances, rtol=1e-5)


def test_cards_with_little_shared_memory_compare_one_query_at_a_time() -> None:
    small = Card(EmulatedDevice(shared_bytes=48 << 10))
    assert ExactShape.of(small.queue, 5, 1024, 10**6).together == 1
    assert ExactShape.of(small.queue, 5, 10, 10**6).together == 4
