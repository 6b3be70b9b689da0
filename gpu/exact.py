"""Exact search: matrix products find the few rows that can matter, their distances are exact.

For each block of rows one float32 matrix product gives approximate values with a bound on their
error. A row can be among the k nearest only if its value minus its bound does not exceed the k-th
smallest value plus bound seen so far. Only such rows get ``pair_distances``. So the answer is the
one that a loop over all pairs would give, ties included, at the speed of BLAS.

The bound is the probabilistic one of Higham and Mary (2019), lambda sqrt(d) u, with lambda = 4.
Values per metric, with a = norm of the query and b = norm of the row (see rows.py):

    l2      |q-x|^2 / 2 = b^2/2 - (q-g).x + (q-g).g + a^2/2    g: centre of the rows
    cosine  1 - q.x / (a b)
    ip      -q.x
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .arrays import F32, I64, U8, Bool
from .bitmap import all_set, bits_at, unpack
from .hits import SearchResult, merge, nearest_pairs, no_hits
from .metrics import pair_distances
from .params import Metric
from .rows import Block, Rows

#: Queries of one matrix product, components of one block of rows, pairs of one distance block:
#: together they bound the memory of a search to some tens of megabytes.
BLOCK_QUERIES = 256
BLOCK_COMPONENTS = 1 << 22
BLOCK_SCORES = 1 << 21
#: Beyond these norms float32 squares overflow; such blocks are compared pair by pair.
LARGEST_SAFE_NORM = 1e15
#: Below this everything counts as equal in the filter, so that underflow decides nothing.
TINY = np.float32(1e-30)


def search_exact(
    rows: Rows, queries: F32, k: int, where: range | I64, allowed: U8 | None = None
) -> SearchResult:
    """Return the k nearest rows of ``where`` (a range, or ascending ids) for f32[q, d].

    ``allowed`` is a packed bitmap over row ids; None allows all. Rows and queries whose cosine is
    undefined give no hits here.
    """
    parts = [
        _search_batch(rows, queries[first : first + BLOCK_QUERIES], k, where, allowed)
        for first in range(0, len(queries), BLOCK_QUERIES)
    ]
    if not parts:
        return no_hits(0, k)
    return SearchResult(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.distances for part in parts]),
    )


def distances_to(rows: Rows, queries: F32, row_ids: I64) -> F32:
    """Return exact distances f32[q, r] of f32[q, d] to ``row_ids`` i64[q, r]; +inf for id -1."""
    query_of, column = np.nonzero(row_ids >= 0)
    out = np.full(row_ids.shape, np.inf, np.float32)
    out[query_of, column] = _distances(rows, queries, query_of, row_ids[query_of, column])
    return out


def distances_to_all(rows: Rows, query: F32, row_ids: I64) -> F32:
    """Return exact distances f32[n] of one query f32[d] to ``row_ids`` i64[n], block by block."""
    return _distances(rows, query[None], np.zeros(len(row_ids), np.int64), row_ids)


def _search_batch(
    rows: Rows, queries: F32, k: int, where: range | I64, allowed: U8 | None
) -> SearchResult:
    screen = _Screen.of(rows, queries)
    best, waiting = no_hits(len(queries), k), _Waiting(len(queries), k)
    size = max(1, min(BLOCK_COMPONENTS // rows.dim, BLOCK_SCORES // max(1, len(queries))))
    for ids, block in _blocks(rows, where, size):
        counts = screen.counts(block.norms) & _allowed(allowed, ids, block)
        if counts.any():
            query_of, row_of = screen.candidates(block, counts, best.distances[:, -1], k)
            row_ids = ids[row_of]
            waiting.add(query_of, row_ids, _distances(rows, queries, query_of, row_ids))
            if waiting.is_full:
                best = waiting.merged(best)
    return waiting.merged(best)


class _Waiting:
    """Pairs of queries and rows that are not in the result yet: merging costs what k rows cost."""

    def __init__(self, n_queries: int, k: int) -> None:
        self._n_queries, self._k = n_queries, k
        self._pairs: list[tuple[I64, I64, F32]] = []
        self._size = 0

    @property
    def is_full(self) -> bool:
        """Whether there are half as many as the result holds: it may be out of date by now."""
        return 2 * self._size >= self._n_queries * self._k

    def add(self, query_of: I64, row_ids: I64, distances: F32) -> None:
        """Keep n pairs for later."""
        self._pairs.append((query_of, row_ids, distances))
        self._size += len(row_ids)

    def merged(self, best: SearchResult) -> SearchResult:
        """Return ``best`` with what has waited."""
        if not self._size:
            return best
        query_of, row_ids, distances = (
            np.concatenate(part) for part in zip(*self._pairs, strict=True)
        )
        self._pairs, self._size = [], 0
        found = nearest_pairs(self._n_queries, self._k, query_of, row_ids, distances)
        return merge(best, found, self._k)


def _blocks(rows: Rows, where: range | I64, size: int) -> Iterator[tuple[I64, Block]]:
    if isinstance(where, range):
        for block in rows.blocks(where.start, where.stop, size):
            yield np.arange(block.start, block.start + len(block.norms)), block
        return
    for first in range(0, len(where), size):
        ids = where[first : first + size]
        yield ids, Block(-1, rows.take(ids), rows.norms(ids))


def _allowed(allowed: U8 | None, ids: I64, block: Block) -> Bool | np.bool_:
    if allowed is None:
        return np.True_
    if block.start < 0:
        return bits_at(allowed, ids)
    stop = block.start + len(ids)
    if all_set(allowed, block.start, stop):
        return np.True_
    return unpack(allowed, block.start, stop)


def _distances(rows: Rows, queries: F32, query_of: I64, row_ids: I64) -> F32:
    out = np.empty(len(row_ids), np.float32)
    size = max(1, BLOCK_COMPONENTS // (4 * rows.dim))
    for first in range(0, len(row_ids), size):
        part = slice(first, first + size)
        asked = queries if len(queries) == 1 else queries[query_of[part]]
        out[part] = pair_distances(rows.metric, asked, rows.take(row_ids[part]))
    return out


@dataclass(frozen=True, slots=True)
class _Screen:
    """Queries made ready for the products: ``asked`` f32[q, d], norms a and constants f32[q].

    A row passes for a query when ``value - slack <= limit``; all in units of ``asked``.
    """

    metric: Metric
    asked: F32
    norms: F32
    constant: F32
    unit: np.float32
    centre_norm: np.float32
    defined: Bool

    @classmethod
    def of(cls, rows: Rows, queries: F32) -> _Screen:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            asked = queries - rows.centre if rows.metric == "l2" else queries
            norms = np.sqrt(np.einsum("qd,qd->q", asked, asked, dtype=np.float64)).astype("f4")
            constant = asked @ rows.centre + norms * norms / 2
            if rows.metric != "l2":
                asked = asked / _nonzero(norms)[:, None]
        unit = np.float32(4 * np.sqrt(rows.dim) * np.finfo(np.float32).eps / 2)
        centre_norm = np.linalg.norm(rows.centre).astype(np.float32)
        defined = (norms > 0) if rows.metric == "cosine" else np.ones(len(norms), np.bool_)
        return cls(rows.metric, asked, norms, constant, unit, centre_norm, defined)

    def counts(self, row_norms: F32) -> Bool:
        """Rows that can be hits at all: a zero row has no cosine."""
        return row_norms > 0 if self.metric == "cosine" else np.ones(len(row_norms), np.bool_)

    def candidates(self, block: Block, counts: Bool, kth: F32, k: int) -> tuple[I64, I64]:
        """Return (query numbers, places in the block) of the rows whose distance must be known."""
        largest = max(float(self.norms.max()), float(block.norms[counts].max()))
        if not largest < LARGEST_SAFE_NORM:
            return self._everything(counts)
        values, slack = self._values(block)
        limit = self._limit(kth)
        if not np.isfinite(limit).all() and k <= np.count_nonzero(counts):
            upper = np.where(counts, values + slack, np.inf)
            kth_upper = np.partition(upper, k - 1, axis=1)[:, k - 1]
            limit = np.minimum(limit, kth_upper + self._query_slack())
        np.subtract(values, slack, out=values)
        passing = values <= limit[:, None]
        if not (counts.all() and self.defined.all()):
            passing &= counts & self.defined[:, None]
        return np.divmod(np.flatnonzero(passing), len(counts))

    def _everything(self, counts: Bool) -> tuple[I64, I64]:
        query_of, row_of = np.nonzero(self.defined[:, None] & counts)
        return query_of, row_of

    def _values(self, block: Block) -> tuple[F32, F32]:
        """Return values f32[q, b] without the queries' constants, and the rows' slack f32[b]."""
        products = self.asked @ block.vectors.astype(np.float32, copy=False).T
        b = block.norms
        if self.metric == "l2":
            return np.subtract(b * b / 2, products, out=products), 2 * self.unit * b * b + TINY
        if self.metric == "cosine":
            return np.divide(products, -_nonzero(b), out=products), np.full_like(b, 2 * self.unit)
        return np.negative(products, out=products), self.unit * b + TINY

    def _query_slack(self) -> F32 | np.float32:
        """Twice the queries' part of the bound: a b <= (a^2 + b^2) / 2 splits it from the rows'."""
        if self.metric == "l2":
            return 2 * self.unit * self.norms * (2 * self.norms + self.centre_norm)
        return np.float32(0)

    def _limit(self, kth: F32) -> F32:
        """Return the largest value, in units of ``_values``, that may still enter the k nearest."""
        with np.errstate(over="ignore"):
            if self.metric == "l2":
                return (kth * kth / 2 - self.constant + self._query_slack()).astype(np.float32)
            if self.metric == "cosine":
                return kth - np.float32(1) + self.unit
            return kth / _nonzero(self.norms) + TINY


def _nonzero(norms: F32) -> F32:
    return np.where(norms > 0, norms, np.float32(1)).astype(np.float32)
