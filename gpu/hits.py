"""Search results and how two of them become one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import F32, I64, AnyArray


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits of q queries, nearest first; equal distances in row id order, NaN distances last.

    ``ids`` i64[q, k] row ids, -1 where there are fewer than k hits; ``distances`` f32[q, k] in
    pgvector's terms, +inf where ids are -1.
    """

    ids: I64
    distances: F32

    @property
    def full(self) -> bool:
        """Whether every query has k hits."""
        if len(self.ids) == 1:
            return bool(self.ids[0, -1] >= 0)
        return bool(np.all(self.ids[:, -1] >= 0))


def no_hits(n_queries: int, k: int) -> SearchResult:
    """Return a result without any hit."""
    ids = np.full((n_queries, k), -1, np.int64)
    return SearchResult(ids, np.full((n_queries, k), np.inf, np.float32))


def nearest_pairs(
    n_queries: int, k: int, query_of: AnyArray, ids: I64, distances: F32
) -> SearchResult:
    """Sort loose pairs into a result: query number, row id and distance of n pairs, 1-d each."""
    order = np.lexsort((ids, distances, query_of))
    query_of, ids, distances = query_of[order], ids[order], distances[order]
    starts = np.searchsorted(query_of, np.arange(n_queries))
    rank = np.arange(len(ids)) - starts[query_of]
    kept = rank < k
    result = no_hits(n_queries, k)
    result.ids[query_of[kept], rank[kept]] = ids[kept]
    result.distances[query_of[kept], rank[kept]] = distances[kept]
    return result


def merge(first: SearchResult, second: SearchResult, k: int) -> SearchResult:
    """Return the k nearest of two results over disjoint rows."""
    ids = np.concatenate([first.ids, second.ids], axis=1)
    distances = np.concatenate([first.distances, second.distances], axis=1)
    query_of, column = np.nonzero(ids >= 0)
    return nearest_pairs(len(ids), k, query_of, ids[query_of, column], distances[query_of, column])
