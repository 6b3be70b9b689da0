"""What training and encoding spend their time on: nearest lists, codes and sums, on all threads.

Results do not depend on the number of threads: rows are cut where each is on its own, and sums by
list or by sub-quantizer, each of which one thread adds up in the order of the rows.
"""

from __future__ import annotations

from itertools import pairwise
from threading import Lock
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from gpu.arrays import F32, F64, I32, I64, U8
from gpu.codec import Codec
from gpu.encoding import Terms

from .assignment import Centroids, add_by_list, assign
from .codewords import Books, add_by_codeword, code_rows
from .features import FLAVOUR
from .memory import address
from .threads import parts, run

#: Rows of one call of a kernel, so that threads end at about the same time.
MOST_ROWS = 1 << 13
#: With fewer points than this share of the lists it takes longer to make the tiles than they save.
POINTS_PER_LIST = 0.25
#: The pool that all of this runs in: batches of searches do not queue behind it.
POOL = "train"


def tiles_pay(points: F32, centroids: F32) -> bool:
    """Whether ``assigned`` beats a product of matrices."""
    return FLAVOUR == "avx512" and len(points) >= POINTS_PER_LIST * len(centroids)


def assigned(centroids: Centroids, points: F32, threads: int) -> tuple[I32, F32]:
    """Return the nearest lists i32[n] of f32[n, d] and half the squared distances f32[n]."""
    points = np.ascontiguousarray(points, dtype=np.float32)
    list_ids, halves = np.empty(len(points), np.int32), np.empty(len(points), np.float32)

    def work(part: slice) -> None:
        assign(
            centroids.places,
            points.shape[1],
            address(points[part]),
            part.stop - part.start,
            address(list_ids[part]),
            address(halves[part]),
        )

    run(work, parts(len(points), MOST_ROWS, threads), threads, POOL)
    return list_ids, halves


def list_sums(points: F32, list_ids: I32, n_lists: int, threads: int) -> tuple[F64, I64]:
    """Return sums f64[L, d] and counts i64[L] of f32[n, d] by list."""
    points = _plain(points)
    sums, counts = np.zeros((n_lists, points.shape[1]), np.float64), np.zeros(n_lists, np.int64)

    def work(part: slice) -> None:
        add_by_list(points, list_ids, part.start, part.stop, sums, counts)

    run(work, _shares(n_lists, threads), threads, POOL)
    return sums, counts


def codeword_sums(residuals: F32, codes: U8, size: int, threads: int) -> tuple[F64, I64]:
    """Return sums f64[m, K, s] and counts i64[m, K] of pieces of f32[n, m * s] by u8[n, m]."""
    residuals, m = _plain(residuals), codes.shape[1]
    sums = np.zeros((m, size, residuals.shape[1] // m), np.float64)
    counts = np.zeros((m, size), np.int64)

    def work(part: slice) -> None:
        add_by_codeword(residuals, codes, part.start, part.stop, sums, counts)

    run(work, _shares(m, threads), threads, POOL)
    return sums, counts


class Lists(NamedTuple):
    """Lists as ``code_rows`` reads them: centroids padded to 16, one over the units f32[L]."""

    centroids: F32
    inverse: F32

    @classmethod
    def of(cls, centroids: F32, sigma: F32) -> Lists:
        """Pad."""
        wide = np.pad(centroids, ((0, 0), (0, -centroids.shape[1] % 16)))
        return cls(wide, (1 / sigma).astype(np.float32))


def coded(rows: F32, list_ids: I32, lists: Lists, books: Books, threads: int) -> tuple[U8, F32]:
    """Return codes u8[n, m] and terms f32[5, n], see ``code_rows``, of placed rows f32[n, D]."""
    rows, list_ids = _plain(rows), np.array(list_ids, np.int32)
    codes = np.empty((len(rows), len(books.plain)), np.uint8)
    terms = np.empty((5, len(rows)), np.float32)

    def work(part: slice) -> None:
        own = np.empty((5, part.stop - part.start), np.float32)
        code_rows(
            rows[part],
            list_ids[part],
            *lists,
            books.plain,
            books.lanes,
            books.halves,
            codes[part],
            own,
        )
        terms[:, part] = own

    run(work, parts(len(rows), MOST_ROWS, threads), threads, POOL)
    return codes, terms


def codes_of(residuals: F32, codebooks: F32, threads: int) -> U8:
    """Return the nearest codewords u8[n, m] of f32[n, m * s]: one list at zero, of unit 1."""
    lists = Lists.of(np.zeros((1, residuals.shape[1]), np.float32), np.ones(1, np.float32))
    nowhere = np.zeros(len(residuals), np.int32)
    return coded(residuals, nowhere, lists, Books(codebooks), threads)[0]


class PreparedCodec(NamedTuple):
    """A codec as the kernels here read it."""

    centroids: Centroids | None
    lists: Lists
    books: Books


class PreparedCodecs:
    """Those of the codecs that live."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: WeakKeyDictionary[Codec, PreparedCodec] = WeakKeyDictionary()

    def of(self, codec: Codec) -> PreparedCodec:
        """Return the codec made ready."""
        with self._lock:
            known = self._known.get(codec)
        if known is None:
            tiled = Centroids(codec.centroids) if FLAVOUR == "avx512" else None
            lists, books = Lists.of(codec.centroids, codec.sigma), Books(codec.codebooks)
            known = PreparedCodec(tiled, lists, books)
            with self._lock:
                self._known[codec] = known
        return known


def terms_of(
    codec: Codec, prepared: PreparedCodec, rows: F32, list_ids: I32, threads: int
) -> Terms:
    """Return what ``Terms.of`` does, for placed rows f32[n, D] with known lists."""
    codes, terms = coded(rows, list_ids, prepared.lists, prepared.books, threads)
    return Terms(codes, codec.sigma[list_ids], *terms)


def _plain(array: F32) -> F32:
    """Return an array that kernels are compiled for: contiguous, and not read-only."""
    if array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable:
        return array
    return np.array(array, np.float32)


def _shares(count: int, threads: int) -> list[slice]:
    """Cut ``count`` lists or sub-quantizers into as many slices as there are threads."""
    bounds = [count * i // threads for i in range(threads + 1)]
    return [slice(first, stop) for first, stop in pairwise(bounds) if stop > first]
