"""k-means, product quantization and rotation against slow and obvious versions of themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu import NumpyBackend
from gpu.arrays import F32
from gpu.kmeans import draw_by_weight, kmeans
from gpu.pq import (
    accumulate,
    decode,
    lookup_tables,
    pack_codes,
    power_of_two_near,
    train_codebooks,
)
from gpu.rotation import balanced_pca, deal

BACKEND = NumpyBackend()


def cloud(n: int, dim: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def test_nearest_is_the_argmin_of_all_distances() -> None:
    points, centroids = cloud(300, 5), cloud(17, 5, seed=1)
    numbers, halves = BACKEND.nearest(points, centroids)
    squares = ((points[:, None] - centroids[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(numbers, squares.argmin(axis=1))
    np.testing.assert_allclose(halves, squares.min(axis=1) / 2, rtol=1e-4, atol=1e-5)


def test_kmeans_finds_separated_clusters() -> None:
    centres = np.array([[0, 0], [50, 0], [0, 50], [50, 50], [90, 90]], np.float32)
    points = np.repeat(centres, 40, axis=0) + cloud(200, 2)
    found = kmeans(points, 5, rng=np.random.default_rng(0), backend=BACKEND)
    order = BACKEND.nearest(centres, found)[0]
    assert len(set(order.tolist())) == 5
    np.testing.assert_allclose(found[order], centres, atol=1)


def test_kmeans_is_deterministic_by_seed() -> None:
    points = cloud(500, 6)
    runs = [kmeans(points, 20, rng=np.random.default_rng(3), backend=BACKEND) for _ in range(2)]
    np.testing.assert_array_equal(runs[0], runs[1])


def test_kmeans_leaves_no_list_empty_where_points_differ() -> None:
    points = np.concatenate([np.zeros((500, 3), np.float32), cloud(60, 3)])
    found = kmeans(points, 40, rng=np.random.default_rng(0), backend=BACKEND)
    counts = np.bincount(BACKEND.nearest(points, found)[0], minlength=40)
    assert np.count_nonzero(counts) >= 38


@pytest.mark.parametrize("n", [1, 3])
def test_kmeans_repeats_centroids_when_points_are_too_few(n: int) -> None:
    points = cloud(n, 4)
    found = kmeans(points, 7, rng=np.random.default_rng(0), backend=BACKEND)
    assert found.shape == (7, 4)
    np.testing.assert_allclose(BACKEND.nearest(points, found)[1], 0, atol=1e-6)


def test_draws_are_distinct_and_never_of_weight_zero() -> None:
    weights = np.array([0, 1, 0, 5, 2], np.float32)
    for seed in range(20):
        drawn = draw_by_weight(weights, 4, np.random.default_rng(seed))
        assert drawn.tolist() == [1, 3, 4]


def test_draws_follow_the_weights() -> None:
    rng = np.random.default_rng(0)
    weights = np.array([1, 3], np.float32)
    heavy = sum(int(draw_by_weight(weights, 1, rng)[0]) for _ in range(2000))
    assert 1400 <= heavy <= 1600


@settings(deadline=None)
@given(
    m=st.integers(1, 9), width=st.integers(1, 4), bits=st.sampled_from([4, 8]), seed=st.integers(0)
)
def test_tables_of_packed_codes_sum_to_minus_the_inner_product(
    m: int, width: int, bits: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codebooks = rng.normal(size=(m, 1 << bits, width)).astype(np.float32)
    codes = rng.integers(0, 1 << bits, size=(20, m)).astype(np.uint8)
    queries = rng.normal(size=(3, m * width)).astype(np.float32)
    tables = lookup_tables(queries, codebooks, "float32")
    rounded = lookup_tables(queries, codebooks, "float16")
    decoded = decode(codes, codebooks)
    for query, table, coarse in zip(queries, tables, rounded, strict=True):
        expected = -decoded @ query
        stored = pack_codes(codes, bits)
        np.testing.assert_allclose(accumulate(table, stored), expected, atol=1e-4)
        np.testing.assert_allclose(accumulate(coarse, stored), expected, atol=0.02 * m)


def test_encode_takes_the_nearest_codeword_of_each_piece() -> None:
    residuals, codebooks = cloud(50, 6), np.stack([cloud(16, 2, seed=s) for s in range(3)])
    codes = BACKEND.encode(residuals, codebooks)
    for j in range(3):
        piece = residuals[:, 2 * j : 2 * j + 2]
        squares = ((piece[:, None] - codebooks[j][None]) ** 2).sum(axis=2)
        np.testing.assert_array_equal(codes[:, j], squares.argmin(axis=1))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_float16_tables_neither_overflow_nor_lose_digits(scale: float) -> None:
    codebooks, queries = cloud(32, 4).reshape(2, 16, 4), cloud(2, 8) * np.float32(scale)
    fine = lookup_tables(queries, codebooks, "float32")
    rounded = lookup_tables(queries, codebooks, "float16")
    assert np.abs(rounded - fine).max() <= 2e-3 * np.abs(fine).max()


def test_powers_of_two_lie_at_or_below_their_values() -> None:
    values = np.array([1, 1.5, 2, 1000, 0.3, 0], np.float32)
    np.testing.assert_array_equal(power_of_two_near(values), [1, 1, 2, 512, 0.25, 1])


def test_a_balanced_rotation_keeps_distances() -> None:
    residuals = cloud(400, 10) * np.linspace(1, 20, 10, dtype=np.float32)
    rotation = balanced_pca(BACKEND.covariance(residuals), 4, 3)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(10), atol=1e-5)


def test_large_eigenvalues_are_spread_over_the_sub_spaces() -> None:
    values = np.array([1e-4, 2e-4, 3e-4, 4e-4, 0.5, 0.6, 0.7, 0.8])
    columns = deal(values, 4, 2)
    assert sorted(columns.tolist()) == list(range(8))
    assert {int(columns[i]) // 2 for i in range(4, 8)} == {0, 1, 2, 3}


def test_eigenvalues_of_zero_are_dealt_too() -> None:
    assert sorted(deal(np.zeros(6), 3, 2).tolist()) == list(range(6))


@pytest.mark.parametrize(("bits", "n"), [(4, 3), (4, 900), (8, 40), (8, 2000)])
def test_codebooks_serve_pieces_as_well_as_kmeans_of_each_sub_space(bits: int, n: int) -> None:
    rows, m = cloud(n, 6), 3
    books = train_codebooks(
        rows, m, bits, rng=np.random.default_rng(0), codeword_step=BACKEND.codeword_step
    )
    assert books.shape == (m, 1 << bits, 2)
    error = np.square(rows - decode(BACKEND.encode(rows, books), books)).sum()
    pieces = [np.ascontiguousarray(rows[:, 2 * j : 2 * j + 2]) for j in range(m)]
    alone = sum(
        float(2 * BACKEND.nearest(piece, own)[1].sum())
        for piece in pieces
        for own in [kmeans(piece, 1 << bits, rng=np.random.default_rng(1), backend=BACKEND)]
    )
    assert error <= 1.1 * alone + 1e-3


def test_codebooks_of_equal_rows_are_that_row() -> None:
    rows = np.full((50, 4), 3.0, np.float32)
    books = train_codebooks(
        rows, 2, 4, rng=np.random.default_rng(0), codeword_step=BACKEND.codeword_step
    )
    np.testing.assert_array_equal(books, np.full((2, 16, 2), 3.0))
