"""Codes, biases, gains and the sums of training against encoding.py, pq.py and kmeans.py."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.arrays import F32, I32, U8
from gpu.codec import Codec
from gpu.cuda import encode, kmeans
from gpu.cuda.encode import Books
from gpu.cuda.kmeans import CodewordSums, Grouping, Groups
from gpu.cuda.layout import padded
from gpu.cuda.products import Matrix
from gpu.encoding import LARGEST_RESIDUAL, Terms
from gpu.grouping import sum_by_codeword
from gpu.numpy_backend import NumpyBackend
from gpu.pq import decode
from tests.cuda.kernels.cards import Card
from tests.cuda.kernels.codecs import Sizes, made_codec

CASES = [
    Sizes(),
    Sizes(bits=8, metric="ip"),
    Sizes(m=5, width=7, dim=35, metric="cosine"),
    Sizes(m=3, width=1, dim=2, bits=8),
    Sizes(m=2, width=1000, dim=2000),
]


def near_ties(vectors: F32, codec: Codec, got: U8, wanted: U8) -> int:
    """Assert that codes differ only where both codewords are equally near; return how often."""
    pieces = vectors.reshape(len(vectors), codec.m, -1)
    errors = []
    for codes in (got, wanted):
        off = pieces - decode(codes, codec.codebooks).reshape(pieces.shape)
        errors.append(np.einsum("nms,nms->nm", off, off))
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-4, atol=1e-5)
    return int(np.count_nonzero(got != wanted))


class Rows:
    """Placed rows near their lists, for NumPy and on a card."""

    def __init__(self, card: Card, rng: np.random.Generator, codec: Codec, n: int) -> None:
        self.card, self.codec, self.n = card, codec, n
        self.lists: I32 = rng.integers(0, codec.nlist, n).astype(np.int32)
        spread = rng.standard_normal((n, codec.centroids.shape[1])) * 0.7
        self.placed = (codec.centroids[self.lists] + spread).astype(np.float32)
        self.view = card.codec(codec)
        self.books = Books(self.view.codebooks, codec.m, self.view.width, codec.bits)

    def put(self) -> None:
        """Copy the rows to the card and encode them there."""
        n, stride, card = self.n, self.view.stride, self.card
        wide = np.pad(self.placed, ((0, 0), (0, stride - self.placed.shape[1])))
        self.there = Matrix(card.put(wide), n, stride)
        self.left = Matrix(card.room(4 * n * stride), n, stride)
        self.lists_there = card.put(self.lists)
        sizes = (n * self.codec.m, 2 * n, 2 * n, 4 * n, 4 * n)
        self.encoded = encode.Encoded(*(card.room(size) for size in sizes))
        encode.residuals(card.queue, self.view, self.there, self.lists_there, self.left.address)
        encode.encode(card.queue, self.left, self.books, self.encoded.codes)
        of = (self.left.address, self.lists_there)
        use_gain = self.codec.use_gain
        encode.factors(card.queue, self.view, self.there, of, self.encoded, use_gain=use_gain)

    def codes(self) -> U8:
        """Return the card's codes."""
        return self.card.get(self.encoded.codes, (self.n, self.codec.m), np.uint8)


@pytest.mark.parametrize("sizes", CASES, ids=str)
@pytest.mark.parametrize("use_gain", [True, False])
def test_rows_become_numpys_codes_biases_and_gains(
    card: Card, rng: np.random.Generator, sizes: Sizes, use_gain: bool
) -> None:
    codec = made_codec(rng, sizes)
    object.__setattr__(codec, "use_gain", use_gain)
    n = 3 if sizes.dim > 100 else 41
    rows = Rows(card, rng, codec, n)
    rows.placed[0] = codec.centroids[rows.lists[0]]  # No residual at all.
    rows.put()
    backend = NumpyBackend()
    terms = Terms.of(codec, backend, rows.placed, rows.lists)
    codes = rows.codes()
    residuals = (rows.placed - codec.centroids[rows.lists]) / codec.sigma[rows.lists][:, None]
    assert near_ties(residuals, codec, codes, terms.codes) <= 1
    same = (codes == terms.codes).all(axis=1)
    bias, gain = terms.bias_and_gain(codec)
    got_gain = card.get(rows.encoded.gain, n, np.float16)
    np.testing.assert_allclose(got_gain[same], gain[same], rtol=2e-3)
    relative = (bias - codec.bias_mean[rows.lists]) / codec.bias_unit[rows.lists]
    got_bias = card.get(rows.encoded.bias, n, np.float16).astype(np.float32)
    alike = same & (np.abs(got_gain - gain) < 1e-6)
    np.testing.assert_allclose(got_bias[alike], relative[alike], rtol=2e-3, atol=2e-2)
    assert np.count_nonzero(alike) > n // 2
    assert card.get(rows.encoded.fits, n, np.int32).all()
    squares = terms.rr * np.square(terms.sigma)
    got = card.get(rows.encoded.squares, n, np.float32)
    np.testing.assert_allclose(got, squares, rtol=1e-4, atol=1e-6)


def test_rows_that_lists_cannot_hold_are_told(card: Card, rng: np.random.Generator) -> None:
    codec = made_codec(rng, Sizes())
    rows = Rows(card, rng, codec, 6)
    rows.placed[1, 3] = np.inf
    rows.placed[2, 0] = np.nan
    rows.placed[3] += 2 * LARGEST_RESIDUAL
    rows.placed[4, 5] = 3e38
    rows.put()
    fits = card.get(rows.encoded.fits, 6, np.int32)
    np.testing.assert_array_equal(fits, [1, 0, 0, 0, 0, 1])


@pytest.mark.parametrize(("bits", "m", "width"), [(4, 3, 2), (8, 2, 5), (4, 1, 300), (8, 7, 1)])
@pytest.mark.parametrize("n", [1, 300])
def test_vectors_are_encoded_without_a_codec(
    card: Card, rng: np.random.Generator, bits: int, m: int, width: int, n: int
) -> None:
    codebooks = rng.standard_normal((m, 1 << bits, width)).astype(np.float32)
    codebooks[:, 9] = codebooks[:, 4]  # The smaller number wins.
    vectors = rng.standard_normal((n, m * width)).astype(np.float32)
    books = Books(card.put(codebooks.transpose(0, 2, 1)), m, width, bits)
    codes = card.room(n * m)
    encode.encode(card.queue, Matrix(card.put(vectors), n, m * width), books, codes)
    got = card.get(codes, (n, m), np.uint8)
    assert np.mean(got != NumpyBackend().encode(vectors, codebooks)) < 0.01
    assert not (got == 9).any()


@pytest.mark.parametrize(("n", "n_groups"), [(500, 9), (1, 1), (333, 700)])
def test_points_are_put_in_order_and_added_up_by_group(
    card: Card,
    rng: np.random.Generator,
    n: int,
    n_groups: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kmeans, "ORDER_ROWS", 100)
    points = rng.standard_normal((n, 13)).astype(np.float32)
    assigned = rng.integers(0, n_groups, n).astype(np.int32)
    assigned[assigned == 4] = 5  # An empty group.
    rows, stride = kmeans.order_rows(n, n_groups), padded(13)
    groups = Groups(n_groups, card.room(4 * n), card.room(4 * (n_groups + 1)))
    parts = -(-n // rows)
    room = Grouping(parts, rows, card.room(4 * parts * n_groups), card.room(4 * n_groups))
    kmeans.group_points(card.queue, card.put(assigned), n, room, groups)
    order = np.argsort(assigned, kind="stable")
    np.testing.assert_array_equal(card.get(groups.order, n, np.int32), order)
    starts = np.searchsorted(assigned[order], np.arange(n_groups + 1))
    np.testing.assert_array_equal(card.get(groups.starts, n_groups + 1, np.int32), starts)
    there = Matrix(card.put(np.pad(points, ((0, 0), (0, stride - 13)))), n, stride)
    sums = card.put(np.full((n_groups, stride), 0.25))
    kmeans.sum_groups(card.queue, there, groups, sums)
    wanted = np.full((n_groups, 13), 0.25)
    np.add.at(wanted, assigned, points.astype(np.float64))  # In the order of the rows.
    got = card.get(sums, (n_groups, stride), np.float64)[:, :13]
    np.testing.assert_array_equal(got, wanted)


def test_long_parts_keep_the_counts_of_groups_small() -> None:
    assert kmeans.order_rows(10_000, 100) == kmeans.ORDER_ROWS
    rows = kmeans.order_rows(1 << 20, 1 << 16)
    assert -(-(1 << 20) // rows) << 16 <= kmeans.MOST_MEMBERS


@pytest.mark.parametrize(("bits", "m", "width"), [(4, 3, 2), (8, 2, 3), (4, 2, 21)])
def test_sums_of_codewords_are_numpys(
    card: Card,
    rng: np.random.Generator,
    bits: int,
    m: int,
    width: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kmeans, "PART_ROWS", 100)
    n, size = 333, 1 << bits
    residuals = rng.standard_normal((n, m * width)).astype(np.float32)
    codes = rng.integers(0, size, (n, m)).astype(np.uint8)
    parts = kmeans.parts(n)
    assert parts == 4
    to = CodewordSums(card.room(8 * parts * m * width * size), card.room(4 * parts * m * size))
    books = Books(0, m, width, bits)
    there = Matrix(card.put(residuals), n, m * width)
    kmeans.sum_codewords(card.queue, there, card.put(codes), books, to)
    totals = CodewordSums(
        card.put(np.ones((m, size, width))), card.put(np.ones((m, size), np.int64))
    )
    kmeans.add_parts(card.queue, parts, to, books, totals)
    sums = card.get(totals.sums, (m, size, width), np.float64) - 1
    counts = card.get(totals.counts, (m, size), np.int64) - 1
    wanted, numbers = sum_by_codeword(residuals, codes, size)
    np.testing.assert_array_equal(counts, numbers)
    np.testing.assert_allclose(sums, wanted, rtol=1e-9, atol=1e-12)
