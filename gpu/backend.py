"""What a compute backend must do. NumPy's is the definition; the others answer the same.

Raw rows and bitmaps are host arrays that every backend reads. Inverted lists belong to the backend:
how they lie in memory is its own business, what goes to disk is ``ListContents``. Backends may
break near-ties differently when they encode; over the same codes answers are equal up to ties.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from .arrays import F32, F64, I32, I64, U8, AnyArray
from .filter_program import FilterColumn, FilterProgram
from .hits import SearchResult
from .rows import Rows

if TYPE_CHECKING:
    from .codec import Codec
    from .encoding import CodedRows, ListContents, Terms


class Filtered(NamedTuple):
    """Rows that a search may find: the set bits of ``allowed`` below ``n_rows``, ``matches`` many.

    ``live_rows``: those there would be without a filter.
    """

    allowed: U8
    n_rows: int
    matches: int
    live_rows: int


class Depth(NamedTuple):
    """How far a search over lists goes: k hits from ``rerank`` rows of ``nprobe`` lists."""

    k: int
    nprobe: int
    rerank: int


class ClusterStep(NamedTuple):
    """Of n points: nearest lists i32[n] and half squared distances f32[n]; by list: sums, counts.

    ``sums`` f64[L, d], ``counts`` i64[L]. Lists and halves are those of ``Backend.nearest``. A
    backend adds up in an order of its own, so sums may differ in their last bits (as float32
    products do), but the same call gives the same sums.
    """

    list_ids: I32
    halves: F32
    sums: F64
    counts: I64


class CodewordStep(NamedTuple):
    """Sums f64[m, K, s] and counts i64[m, K] of pieces by their nearest codeword.

    Codewords are those of ``Backend.encode``; for the order of sums see ``ClusterStep``.
    """

    sums: F64
    counts: I64


class Lists(Protocol):
    """One version of a codec's inverted lists; it never changes, later ones may share memory."""

    @property
    def codec(self) -> Codec:
        """What the rows were encoded with."""
        ...

    @property
    def lengths(self) -> I64:
        """Rows of each list, dead ones included, i64[L]."""
        ...

    def append(self, batch: ListContents) -> Lists:
        """Return a version with the rows of ``batch`` added. One writer, on the newest version."""
        ...

    def contents(self) -> ListContents:
        """Return all rows, sorted by list, then by row id."""
        ...


class Backend(Protocol):
    """Operations on arrays. All but ``Lists.append`` are safe to call from several threads."""

    @property
    def name(self) -> str:
        """What ``open_backend`` calls it."""
        ...

    @property
    def picks_matches(self) -> bool:
        """Whether ``search_matches`` decides which searches with a filter compare its matches."""
        ...

    @property
    def most_queries(self) -> int:
        """Queries that are worth searching together: ``search_lists`` gets no more at a time."""
        ...

    def warm_up(self) -> None:
        """Compile and load what searches need, so that none of them waits for it."""
        ...

    def raw_memory(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> AnyArray:
        """Return an uninitialised host array for a chunk of raw rows.

        Raise MemoryError or IndexFull.
        """
        ...

    def hold(self, rows: Rows, alive_bits: U8) -> None:
        """Bring raw rows and bitmap to where searches read them, so that none waits for it.

        Never raises; a search brings up itself what is missing.
        """
        ...

    def nearest(self, points: F32, centroids: F32) -> tuple[I32, F32]:
        """Return the nearest centroid of f32[n, d] among f32[L, d], and half its squared distance.

        i32[n] and f32[n]; the smaller number wins a tie.
        """
        ...

    def encode(self, residuals: F32, codebooks: F32) -> U8:
        """Return the nearest codewords of f32[n, m * s] in f32[m, K, s] as u8[n, m]."""
        ...

    def cluster_step(self, points: F32, centroids: F32) -> ClusterStep:
        """Do one step of k-means: ``nearest`` of f32[n, d] in f32[L, d], and sums by list."""
        ...

    def codeword_step(self, residuals: F32, codebooks: F32) -> CodewordStep:
        """Do one step for all codebooks: ``encode`` f32[n, m * s], and sums by codeword."""
        ...

    def rotate(self, vectors: F32, rotation: F32) -> F32:
        """Return f32[n, D]: vectors f32[n, d] times a rotation f32[d, D]."""
        ...

    def covariance(self, vectors: F32) -> F64:
        """Return the sum of v v^T over the rows of f32[n, d], f64[d, d]."""
        ...

    def terms(self, codec: Codec, rows: F32, list_ids: I32) -> Terms:
        """Encode placed rows f32[n, D] of lists i32[n], and sum up what biases are made of."""
        ...

    def encode_rows(self, codec: Codec, vectors: F32) -> CodedRows:
        """Return what lists hold of vectors f32[n, d] as they came: place, assign and encode."""
        ...

    def open_lists(self, codec: Codec) -> Lists:
        """Return empty lists for ``codec``."""
        ...

    def rewrite_lists(
        self, lists: Lists, kept: U8, *, renumber: bool, pause: Callable[[], None]
    ) -> Lists:
        """Return new lists with the rows of ``lists`` that ``kept``, a packed bitmap, has set.

        With ``renumber`` row i gets as its new id the number of set bits before bit i. ``pause`` is
        called between slices and may raise to stop. Raise IndexFull; then nothing was taken.
        """
        ...

    def choose_lists(self, codec: Codec, queries: F32, nprobe: int) -> tuple[I32, F32]:
        """Return the best lists of placed queries f32[q, D], nearest first, and their constants B.

        i32[q, p] and f32[q, p], p = min(nprobe, L).
        """
        ...

    def scan(
        self, lists: Lists, queries: F32, probes: I32, constants: F32, allowed: U8, limit: int
    ) -> tuple[I64, F32]:
        """Return the ``limit`` best rows of the probed lists that ``allowed`` has set, best first.

        Row ids i64[q, limit], -1 where there are fewer, and their scores f32[q, limit].
        """
        ...

    def search_lists(
        self, lists: Lists, rows: Rows, queries: F32, depth: Depth, allowed: U8
    ) -> SearchResult:
        """Return the k nearest of the best-scored rows: ``choose_lists``, ``scan``, ``distances``.

        ``queries`` f32[q, d] as they came; one that is not ``Codec.in_range`` gets no hits.
        """
        ...

    def search_matches(
        self, lists: Lists, rows: Rows, queries: F32, depth: Depth, filtered: Filtered
    ) -> SearchResult | None:
        """Search among a filter's matches, in lists or not, where ``picks_matches`` says it can.

        min(k, matches) hits each. None: scanning lists is cheaper, or the queries are unusual.
        """
        ...

    def runs_filters(self, n_rows: int) -> bool:
        """Say whether ``filter_rows`` is worth a program for that many rows."""
        ...

    def filter_rows(
        self,
        rows: Rows,
        columns: Mapping[str, FilterColumn],
        program: FilterProgram,
        alive: U8,
        span: range,
    ) -> U8 | None:
        """Return for which rows of ``span`` a program is TRUE, a bit each; alive or not.

        ``span`` starts at a multiple of 32. ``columns``: by name, over all rows of ``span`` and
        before; a name stands for the same column for as long as ``rows`` live. None: the host has
        to look, because there is no room, or to say what is wrong with a row that is ``alive``.
        """
        ...

    def exact(
        self, rows: Rows, queries: F32, k: int, where: range | I64, allowed: U8 | None
    ) -> SearchResult:
        """Return the k nearest rows of ``where`` that ``allowed`` (packed bitmap) has set."""
        ...

    def distances(self, rows: Rows, queries: F32, row_ids: I64) -> F32:
        """Return exact distances f32[q, r] to ``row_ids`` i64[q, r]; +inf for id -1."""
        ...
