"""Steps of k-means and of codebooks: sums in one call equal those of the definition."""

from __future__ import annotations

import numpy as np
import pytest

from gpu import Backend, NumpyBackend
from gpu.arrays import F32

NUMPY = NumpyBackend()


def cloud(n: int, dim: int, seed: int) -> F32:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


@pytest.mark.parametrize(
    ("n", "dim", "n_lists"),
    [(1, 1, 1), (7, 3, 5), (300, 33, 64), (1000, 16, 200), (2100, 130, 65), (40, 2000, 3)],
)
def test_a_step_of_kmeans_gives_nearest_lists_and_their_sums(
    n: int, dim: int, n_lists: int, backend: Backend
) -> None:
    points, centroids = cloud(n, dim, 0), cloud(n_lists, dim, 1)
    found, expected = backend.cluster_step(points, centroids), NUMPY.nearest(points, centroids)
    np.testing.assert_array_equal(found.list_ids, expected[0])
    np.testing.assert_allclose(found.halves, expected[1], rtol=1e-4, atol=1e-5 * dim)
    assert found.list_ids.dtype == np.int32
    assert found.halves.dtype == np.float32
    members = found.list_ids == np.arange(n_lists)[:, None]
    np.testing.assert_array_equal(found.counts, members.sum(axis=1))
    np.testing.assert_allclose(found.sums, members @ points.astype(np.float64), atol=1e-4)
    assert found.sums.dtype == np.float64
    assert found.counts.dtype == np.int64


def test_equally_near_lists_go_to_the_smaller_number(backend: Backend) -> None:
    centroids = np.repeat(cloud(70, 12, 2), 2, axis=0)
    found = backend.cluster_step(cloud(500, 12, 3), centroids)
    assert (found.list_ids % 2 == 0).all()
    assert not found.counts[1::2].any()
    assert not found.sums[1::2].any()


@pytest.mark.parametrize(
    ("n", "m", "width", "size"),
    [(1, 1, 1, 16), (90, 5, 3, 16), (3000, 32, 4, 16), (700, 6, 8, 16), (800, 4, 6, 256)],
)
def test_a_step_of_codebooks_gives_the_sums_of_the_pieces(
    n: int, m: int, width: int, size: int, backend: Backend
) -> None:
    residuals = cloud(n, m * width, 4)
    codebooks = cloud(m * size, width, 5).reshape(m, size, width)
    found = backend.codeword_step(residuals, codebooks)
    codes = NUMPY.encode(residuals, codebooks)
    members = codes.T[:, None, :] == np.arange(size)[:, None]
    pieces = residuals.reshape(n, m, width).transpose(1, 0, 2).astype(np.float64)
    np.testing.assert_array_equal(found.counts, members.sum(axis=2))
    np.testing.assert_allclose(found.sums, members @ pieces, atol=1e-4)
    assert found.sums.dtype == np.float64
    assert found.counts.dtype == np.int64


def test_steps_of_the_same_points_are_the_same(backend: Backend) -> None:
    points, centroids = cloud(3000, 24, 6), cloud(90, 24, 7)
    one, two = (backend.cluster_step(points, centroids) for _ in range(2))
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first, second)
    books = cloud(6 * 16, 4, 8).reshape(6, 16, 4)
    first, second = (backend.codeword_step(points, books).sums for _ in range(2))
    np.testing.assert_array_equal(first, second)
