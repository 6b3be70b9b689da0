"""Placing queries, choosing lists, nearest centroids: against Codec, choose_lists and nearest."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.arrays import F32
from gpu.codec import Codec
from gpu.cuda import coarse, place, products
from gpu.cuda.products import Matrix
from gpu.cuda.scratch import SearchShape
from gpu.numpy_backend import NumpyBackend
from gpu.scan import choose_lists
from tests.cuda.emulator import EmulatedDevice
from tests.cuda.kernels.cards import Card
from tests.cuda.kernels.codecs import PagedLists, Sizes, made_codec, made_contents

CASES = [
    Sizes(),
    Sizes(metric="cosine", dim=23, nlist=300),
    Sizes(metric="ip", dim=21, nlist=77),
    Sizes(rotated=True, dim=22, nlist=130),
    Sizes(rotated=True, metric="ip", m=3, width=23, dim=69, nlist=33),
    Sizes(m=1, width=1, dim=1, nlist=2),
    Sizes(m=40, width=100, dim=4000, nlist=3, metric="cosine"),
]


def queries(rng: np.random.Generator, codec: Codec, q: int) -> F32:
    return rng.standard_normal((q, codec.dim)).astype(np.float32)


def shape_of(card: Card, codec: Codec, q: int, p: int, blocks: int) -> SearchShape:
    each = -(-codec.nlist // (32 * blocks)) * 32
    return SearchShape(q, min(p, codec.nlist), 4, 1, -(-codec.nlist // each), each)


def check_chosen(codec: Codec, placed: F32, probes: np.ndarray, constants: F32) -> None:
    """Compare with NumPy: equal constants in order, and lists that have them."""
    _, wanted = choose_lists(codec, placed, probes.shape[1])
    atol = 1e-3 * max(1.0, float(np.abs(wanted).max()) * 1e-2)
    np.testing.assert_allclose(constants, wanted, rtol=1e-4, atol=atol)
    true = np.take_along_axis(codec.constants(placed), probes.astype(np.int64), axis=1)
    np.testing.assert_allclose(true, wanted, rtol=1e-4, atol=atol)
    assert all(len(set(row)) == len(row) for row in probes.tolist())


@pytest.mark.parametrize("sizes", CASES, ids=str)
@pytest.mark.parametrize("blocks", [1, 3])
def test_few_queries_choose_numpys_lists_in_one_launch(
    card: Card, rng: np.random.Generator, sizes: Sizes, blocks: int
) -> None:
    codec = made_codec(rng, sizes)
    lengths = [int(n) for n in rng.integers(0, 70, codec.nlist)]
    view = card.codec(codec)
    lists = PagedLists(card, codec, made_contents(rng, codec, lengths))
    q, p = 2, 50
    shape = shape_of(card, codec, q, p, blocks)
    scratch = card.scratch(view, shape)
    asked = queries(rng, codec, q)
    for _ in range(2):  # The counters must be ready for a second search.
        coarse.coarse_few(card.queue, view, lists.view, card.put(asked), shape, scratch)
    placed = card.get(scratch.placed, (q, view.stride), np.float32)[:, : view.placed_dim]
    np.testing.assert_allclose(placed, codec.place_queries(asked), rtol=1e-4, atol=1e-4)
    probes = card.get(scratch.probes, (q, shape.nprobe), np.int32)
    constants = card.get(scratch.constants, (q, shape.nprobe), np.float32)
    check_chosen(codec, codec.place_queries(asked), probes, constants)
    assert card.get(scratch.near, q, np.int32).all()
    spans = card.get(scratch.spans, (q, shape.nprobe + 1, 4), np.int32)
    groups = -(-lists.lengths[probes] // 32)
    np.testing.assert_array_equal(np.diff(spans[:, :, 0], axis=1), groups)
    np.testing.assert_array_equal(spans[:, :-1, 3], probes)
    np.testing.assert_array_equal(spans[:, :-1, 2], lists.lengths[probes])
    factors = card.get(scratch.factors, (q, shape.nprobe, 4), np.float32)
    np.testing.assert_array_equal(factors[:, :, 0], constants + codec.bias_mean[probes])


@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_many_queries_choose_numpys_lists(
    card: Card, rng: np.random.Generator, sizes: Sizes
) -> None:
    codec = made_codec(rng, sizes)
    view = card.codec(codec)
    q = 3 if sizes.dim > 100 else 67
    shape = shape_of(card, codec, q, 31, 1)
    scratch = card.scratch(view, shape)
    asked = queries(rng, codec, q)
    to = (scratch.plain if view.rotation else scratch.placed, scratch.near)
    place.place(card.queue, view, card.put(asked), q, to, rows=False)
    if view.rotation:
        products.rotate(card.queue, view, scratch.plain, q, scratch.placed)
    placed = card.get(scratch.placed, (q, view.stride), np.float32)[:, : view.placed_dim]
    np.testing.assert_allclose(placed, codec.place_queries(asked), rtol=1e-4, atol=1e-4)
    halves, scores = card.room(4 * codec.nlist), card.room(4 * q * codec.nlist)
    products.half_squares(card.queue, Matrix(view.centroids, codec.nlist, view.stride), halves)
    products.list_scores(card.queue, view, scratch.placed, q, halves, scores)
    coarse.choose(card.queue, view, scores, shape, scratch)
    probes = card.get(scratch.probes, (q, shape.nprobe), np.int32)
    constants = card.get(scratch.constants, (q, shape.nprobe), np.float32)
    check_chosen(codec, codec.place_queries(asked), probes, constants)


def test_a_far_query_becomes_zero_and_scans_nothing(card: Card, rng: np.random.Generator) -> None:
    codec = made_codec(rng, Sizes())
    view = card.codec(codec)
    lists = PagedLists(card, codec, made_contents(rng, codec, [40] * 5))
    shape = shape_of(card, codec, 2, 3, 1)
    scratch = card.scratch(view, shape)
    asked = queries(rng, codec, 2)
    asked[1, 3] = 3e38
    coarse.coarse_few(card.queue, view, lists.view, card.put(asked), shape, scratch)
    np.testing.assert_array_equal(card.get(scratch.near, 2, np.int32), [1, 0])
    assert codec.in_range(codec.place_queries(asked)).tolist() == [True, False]
    assert not card.get(scratch.placed, (2, view.stride), np.float32)[1].any()
    spans = card.get(scratch.spans, (2, 4, 4), np.int32)
    assert spans[0, 3, 0] == 6
    assert spans[1, 3, 0] == 0


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_rows_are_placed_as_the_codec_places_them(
    card: Card, rng: np.random.Generator, metric: str
) -> None:
    codec = made_codec(rng, Sizes(metric=metric, dim=19))  # type: ignore[arg-type]
    view = card.codec(codec)
    vectors = queries(rng, codec, 5)
    vectors[2] = 0
    plain = card.room(4 * 5 * view.plain_stride)
    place.place(card.queue, view, card.put(vectors), 5, (plain, card.room(20)), rows=True)
    got = card.get(plain, (5, view.plain_stride), np.float32)[:, : view.placed_dim]
    np.testing.assert_allclose(got, codec.place_rows(vectors), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("n", "nlist", "dim"), [(1, 1, 1), (65, 3, 17), (130, 129, 40), (3, 70, 9)]
)
def test_nearest_centroids_are_numpys(
    card: Card, rng: np.random.Generator, n: int, nlist: int, dim: int
) -> None:
    points = rng.standard_normal((n, dim)).astype(np.float32)
    centroids = rng.standard_normal((nlist, dim)).astype(np.float32)
    centroids[nlist // 2 :] = centroids[nlist // 2]  # Ties go to the smaller number.
    halves, numbers, values = card.room(4 * nlist), card.room(4 * n), card.room(4 * n)
    of = Matrix(card.put(centroids), nlist, dim)
    products.half_squares(card.queue, of, halves)
    points_there = Matrix(card.put(points), n, dim)
    products.nearest(card.queue, points_there, of, halves, (numbers, values))
    wanted, half = NumpyBackend().nearest(points, centroids)
    np.testing.assert_array_equal(card.get(numbers, n, np.int32), wanted)
    np.testing.assert_allclose(card.get(values, n, np.float32), half, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n", "dim", "columns"), [(1, 1, 3), (65, 13, 66), (600, 70, 64)])
def test_products_and_covariances_are_numpys(
    card: Card, rng: np.random.Generator, n: int, dim: int, columns: int
) -> None:
    vectors = rng.standard_normal((n, dim)).astype(np.float32)
    matrix = rng.standard_normal((dim, columns)).astype(np.float32)
    there = Matrix(card.put(vectors), n, dim)
    product, squares = card.room(4 * n * columns), card.room(8 * dim * dim)
    products.multiply(card.queue, there, Matrix(card.put(matrix), dim, columns), product)
    got = card.get(product, (n, columns), np.float32)
    np.testing.assert_allclose(got, vectors @ matrix, rtol=1e-4, atol=1e-4)
    products.covariance(card.queue, there, squares)
    wanted = vectors.T.astype(np.float64) @ vectors
    found = card.get(squares, (dim, dim), np.float64)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found, found.T)


def test_a_query_of_sixteen_thousand_dimensions_fits_or_takes_the_other_path(
    rng: np.random.Generator,
) -> None:
    codec = made_codec(rng, Sizes(m=16, width=1000, dim=16_000, nlist=4))
    large, small = EmulatedDevice(), EmulatedDevice(shared_bytes=64 << 10)
    for device, takes in ((large, True), (small, False)):
        card = Card(device)
        view = card.codec(codec)
        assert coarse.takes_few(card.queue, view, shape_of(card, codec, 1, 4, 1)) == takes
    shape = shape_of(card, codec, 1, 4, 1)
    card = Card(large)
    view = card.codec(codec)
    lists = PagedLists(card, codec, made_contents(rng, codec, [3, 0, 1, 2]))
    scratch = card.scratch(view, shape)
    asked = queries(rng, codec, 1)
    coarse.coarse_few(card.queue, view, lists.view, card.put(asked), shape, scratch)
    probes = card.get(scratch.probes, (1, 4), np.int32)
    constants = card.get(scratch.constants, (1, 4), np.float32)
    check_chosen(codec, codec.place_queries(asked), probes, constants)
