"""Steps of k-means and of codebooks, and coded rows, are those of the definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpu import Backend, Metric, NumpyBackend
from gpu.arrays import F32
from gpu.codec import Codec
from gpu.cpu_backend import CpuBackend
from gpu.smallest import smallest_codec

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


def test_far_outliers_and_offsets_are_assigned_as_by_the_definition(backend: Backend) -> None:
    points, centroids = cloud(400, 20, 9), cloud(150, 20, 10)
    points[::7] *= np.float32(1e4)
    centroids[::11] *= np.float32(300)
    points, centroids = points + np.float32(50), centroids + np.float32(50)
    found, (_, expected) = backend.nearest(points, centroids)[0], NUMPY.nearest(points, centroids)
    squares = ((points.astype(np.float64) - centroids[found]) ** 2).sum(axis=1) / 2
    scale = np.square(points).sum(axis=1)
    assert (squares <= expected + 1e-5 * scale).all()


def test_points_without_a_finite_distance_get_some_list(backend: Backend) -> None:
    points = np.full((40, 6), 3e38, np.float32)
    points[::2] *= np.float32(-1)
    with np.errstate(all="ignore"):
        list_ids, _ = backend.nearest(points, cloud(100, 6, 11))
    assert ((list_ids >= 0) & (list_ids < 100)).all()


def codec(metric: Metric, m: int, width: int, bits: int) -> Codec:
    dim, n_lists = m * width, 70
    return replace(
        smallest_codec(),
        metric=metric,
        bits=bits,
        centre=np.full(dim, 0.1, np.float32),
        centroids=cloud(n_lists, dim, 12),
        sigma=np.random.default_rng(13).uniform(0.5, 2, n_lists).astype(np.float32),
        bias_mean=cloud(1, n_lists, 14)[0],
        bias_unit=np.full(n_lists, 0.5, np.float32),
        codebooks=cloud(m << bits, width, 15).reshape(m, 1 << bits, width),
    )


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize(("m", "width", "bits"), [(5, 3, 4), (16, 4, 4), (1, 7, 4), (3, 5, 8)])
def test_rows_are_coded_as_by_the_definition(
    metric: Metric, m: int, width: int, bits: int, backend: Backend
) -> None:
    ours = codec(metric, m, width, bits)
    vectors = cloud(333, m * width, 16)
    found, expected = backend.encode_rows(ours, vectors), NUMPY.encode_rows(ours, vectors)
    np.testing.assert_array_equal(found.list_ids, expected.list_ids)
    assert (found.codes == expected.codes).mean() > 0.999
    same = (found.codes == expected.codes).all(axis=1)
    for name in ("bias", "gain", "squares"):
        ours_of, theirs = getattr(found, name)[same], getattr(expected, name)[same]
        np.testing.assert_allclose(ours_of, theirs, rtol=3e-3, atol=3e-3)
    np.testing.assert_array_equal(found.fits, expected.fits)


def test_the_number_of_threads_changes_no_bit_of_a_step() -> None:
    points, centroids = cloud(20_000, 12, 17), cloud(300, 12, 18)
    books = cloud(3 * 16, 4, 19).reshape(3, 16, 4)
    one, three = CpuBackend(threads=1), CpuBackend(threads=3)
    steps = zip(
        (*one.cluster_step(points, centroids), *one.codeword_step(points, books)),
        (*three.cluster_step(points, centroids), *three.codeword_step(points, books)),
        strict=True,
    )
    for first, second in steps:
        np.testing.assert_array_equal(first, second)
