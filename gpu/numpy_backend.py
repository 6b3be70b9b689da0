"""The backend that defines the answers: plain NumPy and BLAS, on any machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .arrays import F32, F64, I32, I64, U8, AnyArray
from .backend import ClusterStep, CodewordStep, Depth, Filtered, Lists
from .codec import Codec, half_squares
from .encoding import CodedRows, Terms, coded_rows
from .errors import BackendError
from .exact import distances_to, search_exact
from .filter_program import FilterColumn, FilterProgram
from .grouping import sum_by_codeword, sum_by_list
from .hits import SearchResult, nearest_pairs
from .lists import SegmentedLists
from .rewriting import copied_lists
from .rows import Rows
from .scan import choose_lists, scan

#: Scores of one block: 16 MiB.
BLOCK_SCORES = 1 << 22


class NumpyBackend:
    """See ``Backend``; larger operations lie in the module of their job."""

    name = "numpy"
    #: More would only take more memory.
    most_queries = 1024
    #: With a filter, ``query.py`` decides between lists and exact search.
    picks_matches = False

    def nearest(self, points: F32, centroids: F32) -> tuple[I32, F32]:
        """Return the nearest of f32[L, d] to each of f32[n, d], and half its squared distance."""
        halves = half_squares(centroids)
        numbers = np.empty(len(points), np.int32)
        values = np.empty(len(points), np.float32)
        step = max(1, BLOCK_SCORES // len(centroids))
        for first in range(0, len(points), step):
            part = slice(first, first + step)
            scores = points[part] @ centroids.T
            np.subtract(halves, scores, out=scores)
            numbers[part] = scores.argmin(axis=1)
            values[part] = np.take_along_axis(scores, numbers[part, None], axis=1)[:, 0]
        return numbers, np.maximum(values + half_squares(points), 0)

    def encode(self, residuals: F32, codebooks: F32) -> U8:
        """Return the nearest codewords of f32[n, m * s] in f32[m, K, s] as u8[n, m]."""
        m, size, width = codebooks.shape
        halves = half_squares(codebooks.reshape(m * size, width)).reshape(m, 1, size)
        codes = np.empty((len(residuals), m), np.uint8)
        step = max(1, BLOCK_SCORES // (m * size))
        for first in range(0, len(residuals), step):
            part = residuals[first : first + step].reshape(-1, m, width).transpose(1, 0, 2)
            scores = np.matmul(part, codebooks.transpose(0, 2, 1))
            np.subtract(halves, scores, out=scores)
            codes[first : first + step] = scores.argmin(axis=2).T
        return codes

    def cluster_step(self, points: F32, centroids: F32) -> ClusterStep:
        """Return the nearest of f32[L, d] to each of f32[n, d], and the sums by list."""
        list_ids, halves = self.nearest(points, centroids)
        return ClusterStep(list_ids, halves, *sum_by_list(points, list_ids, len(centroids)))

    def codeword_step(self, residuals: F32, codebooks: F32) -> CodewordStep:
        """Return the sums of the pieces of f32[n, m * s] by their codeword of f32[m, K, s]."""
        codes = self.encode(residuals, codebooks)
        return CodewordStep(*sum_by_codeword(residuals, codes, codebooks.shape[1]))

    def rotate(self, vectors: F32, rotation: F32) -> F32:
        """Return f32[n, D]: vectors f32[n, d] times a rotation f32[d, D]."""
        return vectors @ rotation

    def covariance(self, vectors: F32) -> F64:
        """Return the sum of v v^T over the rows of f32[n, d], f64[d, d]."""
        return (vectors.T @ vectors).astype(np.float64)

    def terms(self, codec: Codec, rows: F32, list_ids: I32) -> Terms:
        """Encode placed rows f32[n, D] of known lists, and sum up what biases are made of."""
        return Terms.of(codec, self, rows, list_ids)

    def encode_rows(self, codec: Codec, vectors: F32) -> CodedRows:
        """Return what lists hold of vectors f32[n, d]: place, assign and encode."""
        return coded_rows(codec, self, vectors, lambda rows: self.nearest(rows, codec.centroids)[0])

    def open_lists(self, codec: Codec) -> Lists:
        """Return empty lists for ``codec``."""
        return SegmentedLists(codec)

    def rewrite_lists(
        self, lists: Lists, kept: U8, *, renumber: bool, pause: Callable[[], None]
    ) -> Lists:
        """Return new lists with the rows that ``kept`` has set, by way of their contents."""
        return copied_lists(self, lists, kept, renumber=renumber, pause=pause)

    def choose_lists(self, codec: Codec, queries: F32, nprobe: int) -> tuple[I32, F32]:
        """Return the best lists of placed queries, nearest first, and their constants B."""
        return choose_lists(codec, queries, nprobe)

    def scan(
        self, lists: Lists, queries: F32, probes: I32, constants: F32, allowed: U8, limit: int
    ) -> tuple[I64, F32]:
        """Return the ``limit`` best rows of the probed lists that ``allowed`` has set."""
        if not isinstance(lists, SegmentedLists):
            raise BackendError("these lists belong to another backend")
        return scan(lists, queries, probes, constants, allowed, limit)

    def search_lists(
        self, lists: Lists, rows: Rows, queries: F32, depth: Depth, allowed: U8
    ) -> SearchResult:
        """Return the k nearest of the best-scored rows of the best lists."""
        k, nprobe, rerank = depth
        placed = lists.codec.place_queries(queries)
        near = lists.codec.in_range(placed)
        placed = np.where(near[:, None], placed, np.float32(0))
        probes, constants = self.choose_lists(lists.codec, placed, nprobe)
        ids, _ = self.scan(lists, placed, probes, constants, allowed, rerank)
        distances = self.distances(rows, queries, ids)
        of, column = np.nonzero((ids >= 0) & near[:, None])
        return nearest_pairs(len(ids), k, of, ids[of, column], distances[of, column])

    def search_matches(
        self, lists: Lists, rows: Rows, queries: F32, depth: Depth, filtered: Filtered
    ) -> SearchResult | None:
        """Return None: ``picks_matches`` is False here."""
        return None

    def runs_filters(self, n_rows: int) -> bool:
        """Return False: filters are NumPy's anyway."""
        return False

    def filter_rows(
        self,
        rows: Rows,
        columns: Mapping[str, FilterColumn],
        program: FilterProgram,
        alive: U8,
        span: range,
    ) -> U8 | None:
        """Return None: no program is worth it here."""
        return None

    def exact(
        self, rows: Rows, queries: F32, k: int, where: range | I64, allowed: U8 | None
    ) -> SearchResult:
        """Return the k nearest rows of ``where`` that ``allowed`` has set."""
        return search_exact(rows, queries, k, where, allowed)

    def raw_memory(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> AnyArray:
        """Return an uninitialised host array for a chunk of raw rows."""
        return np.empty(shape, dtype)

    def hold(self, rows: Rows, alive_bits: U8) -> None:
        """Do nothing: both are where they are read."""

    def warm_up(self) -> None:
        """Do nothing: there is nothing to compile."""

    def distances(self, rows: Rows, queries: F32, row_ids: I64) -> F32:
        """Return exact distances f32[q, r] to ``row_ids`` i64[q, r]; +inf for id -1."""
        return distances_to(rows, queries, row_ids)
