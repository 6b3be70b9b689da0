"""The CPU backend: numba kernels for what searches, encoding and training do."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from .arrays import F32, I32, I64, U8, AnyArray
from .backend import ClusterStep, CodewordStep, Depth, Filtered, Lists
from .codec import Codec
from .cpu import search as kernels
from .cpu.assignment import Centroids
from .cpu.coarse import choose
from .cpu.lists import BlockLists
from .cpu.matches import MatchSearch
from .cpu.memory import ALIGNMENT, address
from .cpu.prepared import describe
from .cpu.raw import RawRows
from .cpu.teaching import (
    PreparedCodecs,
    assigned,
    codes_of,
    codeword_sums,
    list_sums,
    terms_of,
    tiles_pay,
)
from .cpu.threads import FEWEST_QUERIES, parts, run, thread_count, training_threads
from .encoding import CodedRows, Terms, coded_rows
from .errors import BackendError
from .hits import SearchResult
from .numpy_backend import NumpyBackend
from .rows import Rows

Array = TypeVar("Array", bound=AnyArray)

#: Components of the rows that are coded together: what lies between two steps stays in the cache.
CODED_COMPONENTS = 1 << 20
#: Queries of one call of a kernel, and candidates that their buffers may hold together.
MOST_QUERIES = 1024
MOST_CANDIDATES = 1 << 22


class CpuBackend(NumpyBackend):
    """See ``Backend``. Products of matrices with little around them are NumPy's."""

    name = "cpu"
    picks_matches = True

    def __init__(self, threads: int | None = None) -> None:
        """Use ``threads`` for everything; None: what the environment says, see docs/cpu.md."""
        self._threads = threads or thread_count()
        self._training_threads = threads or training_threads()
        self._raw, self._matches = RawRows(), MatchSearch(self._threads)
        self._codecs = PreparedCodecs()

    def warm_up(self) -> None:
        """Compile every kernel, or load it from the cache."""
        from .cpu.warmup import run_kernels  # noqa: PLC0415 (it imports this module)

        run_kernels()

    def raw_memory(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> AnyArray:
        """Return memory for a chunk of raw rows; no row touches one more cache line than it needs.

        numpy asks for large pages by itself: random rows cost fewer look-ups of addresses then.
        """
        size = int(np.prod(shape)) * dtype.itemsize
        room = np.empty(size + ALIGNMENT, np.uint8)
        start = -address(room) % ALIGNMENT
        return room[start : start + size].view(dtype).reshape(shape)

    def nearest(self, points: F32, centroids: F32) -> tuple[I32, F32]:
        """Return the nearest of f32[L, d] to each of f32[n, d], and half its squared distance."""
        if tiles_pay(points, centroids):
            return assigned(Centroids(centroids), points, self._training_threads)
        return super().nearest(points, centroids)

    def encode(self, residuals: F32, codebooks: F32) -> U8:
        """Return the nearest codewords of f32[n, m * s] in f32[m, K, s] as u8[n, m]."""
        return codes_of(residuals, codebooks, self._training_threads)

    def cluster_step(self, points: F32, centroids: F32) -> ClusterStep:
        """Return the nearest of f32[L, d] to each of f32[n, d], and the sums by list."""
        list_ids, halves = self.nearest(points, centroids)
        sums = list_sums(points, list_ids, len(centroids), self._training_threads)
        return ClusterStep(list_ids, halves, *sums)

    def codeword_step(self, residuals: F32, codebooks: F32) -> CodewordStep:
        """Return the sums of the pieces of f32[n, m * s] by their codeword of f32[m, K, s]."""
        codes = codes_of(residuals, codebooks, self._training_threads)
        return CodewordStep(
            *codeword_sums(residuals, codes, codebooks.shape[1], self._training_threads)
        )

    def terms(self, codec: Codec, rows: F32, list_ids: I32) -> Terms:
        """Encode placed rows f32[n, D] of known lists, and sum up what biases are made of."""
        return terms_of(codec, self._codecs.of(codec), rows, list_ids, self._training_threads)

    def encode_rows(self, codec: Codec, vectors: F32) -> CodedRows:
        """Return what lists hold of vectors f32[n, d]: place, assign and encode."""
        tiles = self._codecs.of(codec).centroids

        def lists_of(rows: F32) -> I32:
            if tiles is None:
                return self.nearest(rows, codec.centroids)[0]
            return assigned(tiles, rows, self._training_threads)[0]

        step = max(1, CODED_COMPONENTS // codec.centroids.shape[1])
        parts = [
            coded_rows(codec, self, vectors[first : first + step], lists_of)
            for first in range(0, max(1, len(vectors)), step)
        ]
        return CodedRows(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def open_lists(self, codec: Codec) -> Lists:
        """Return empty lists for ``codec``."""
        return BlockLists.empty(codec)

    def choose_lists(self, codec: Codec, queries: F32, nprobe: int) -> tuple[I32, F32]:
        """Return the best lists of placed queries, nearest first, and their constants B."""
        nprobe = min(nprobe, codec.nlist)
        numbers = np.empty((len(queries), nprobe), np.int32)
        constants = np.empty((len(queries), nprobe), np.float32)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        described = describe(codec)
        choose(
            described.at,
            address(queries),
            len(queries),
            nprobe,
            nprobe,
            address(numbers),
            address(constants),
        )
        return numbers, constants

    def scan(
        self, lists: Lists, queries: F32, probes: I32, constants: F32, allowed: U8, limit: int
    ) -> tuple[I64, F32]:
        """Return the ``limit`` best rows of the probed lists that ``allowed`` has set."""
        lists = _own(lists)
        n, p = probes.shape
        ids, scores = np.empty((n, limit), np.int64), np.empty((n, limit), np.float32)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        probes = np.ascontiguousarray(probes, dtype=np.int32)
        constants = np.ascontiguousarray(constants, dtype=np.float32)
        allowed = np.ascontiguousarray(allowed)

        def work(part: slice) -> None:
            kernels.scan(
                lists.prepared.at,
                lists.described.at,
                address(queries[part]),
                part.stop - part.start,
                address(probes[part]),
                address(constants[part]),
                p,
                address(allowed),
                limit,
                address(ids[part]),
                address(scores[part]),
            )

        run(work, parts(n, _most_queries(limit), self._threads), self._threads)
        return ids, scores

    def search_lists(
        self, lists: Lists, rows: Rows, queries: F32, depth: Depth, allowed: U8
    ) -> SearchResult:
        """Choose lists, scan, and compare the raw rows, in one call of a kernel."""
        lists = _own(lists)
        n, (k, nprobe, rerank) = len(queries), depth
        ids, distances = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
        nprobe, raw = min(nprobe, lists.codec.nlist), self._raw.of(rows)
        codec_at, lists_at, raw_at = lists.prepared.at, lists.described.at, raw.at
        queries, allowed = _plain(queries), _plain(allowed)
        if n < 2 * FEWEST_QUERIES:
            kernels.search(
                codec_at, lists_at, raw_at, queries, nprobe, rerank, allowed, ids, distances
            )
            return SearchResult(ids, distances)

        def work(part: slice) -> None:
            kernels.search(
                codec_at,
                lists_at,
                raw_at,
                queries[part],
                nprobe,
                rerank,
                allowed,
                ids[part],
                distances[part],
            )

        run(work, parts(n, _most_queries(max(rerank, nprobe)), self._threads), self._threads)
        return SearchResult(ids, distances)

    def search_matches(
        self, lists: Lists, rows: Rows, queries: F32, depth: Depth, filtered: Filtered
    ) -> SearchResult | None:
        """Compare a filter's matches, or those in the nearest lists, where that reads less."""
        raw = self._raw.of(rows)
        return self._matches.search(_own(lists), raw, _plain(queries), depth, filtered)

    def distances(self, rows: Rows, queries: F32, row_ids: I64) -> F32:
        """Return exact distances f32[q, r] to ``row_ids`` i64[q, r]; +inf for id -1."""
        out = np.empty(row_ids.shape, np.float32)
        queries, ids = np.ascontiguousarray(queries), np.ascontiguousarray(row_ids)
        n, r = ids.shape
        raw = self._raw.of(rows)
        kernels.exact_distances(raw.at, address(queries), n, address(ids), r, address(out))
        return out


def _plain(array: Array) -> Array:
    """Return an array that kernels are compiled for: contiguous, and not read-only."""
    if array.flags.c_contiguous and array.flags.writeable:
        return array
    return array.copy()


def _most_queries(candidates: int) -> int:
    return max(1, min(MOST_QUERIES, MOST_CANDIDATES // candidates))


def _own(lists: Lists) -> BlockLists:
    if not isinstance(lists, BlockLists):
        raise BackendError("these lists belong to another backend")
    return lists
