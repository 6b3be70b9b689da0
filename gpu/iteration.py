"""Neighbours in rising distance without a fixed k, for cursors.

Searches of growing k give the first rows; when they come near the size of the index one pass of
exact distances over what is left gives the rest in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .arrays import F32, I64, U8, Bool
from .bitmap import unpack
from .exact import distances_to_all
from .query import Query, search

if TYPE_CHECKING:
    from .state import IndexState

#: First k: a page of a cursor costs one search. Each next search asks for four times as many.
FIRST_K = 100
GROWTH = 4
#: From this share of the index on, exact distances of everything cost less than another search.
SHARE_FOR_EXACT = 1 / 8
#: A cursor reader wants few neighbours missing; more than the default target of a plain search.
RECALL_TARGET = 0.99
#: Candidates compared exactly for each row wanted. The plan is measured up to k = 100; beyond it
#: this keeps 0.99 of the nearest 1,000 where what the plan extrapolates to kept 0.88.
RERANK_PER_ROW = 4
BATCH_ROWS = 4096


def iterate(state: IndexState, query: F32, allowed: U8) -> Iterator[tuple[I64, F32]]:
    """Yield (ids, distances) of one query f32[1, d] until every allowed row has been given."""
    given = ~unpack(allowed, 0, state.n_rows)
    n_left = len(given) - int(np.count_nonzero(given))
    last = np.float32(-np.inf)
    k = FIRST_K
    while k < n_left * SHARE_FOR_EXACT:
        ids, distances = _rising(_search(state, query, allowed, k), given, last)
        if len(ids):
            given[ids] = True
            last = distances[-1]
            yield ids, distances
        k *= GROWTH
    yield from _rest(state, query, given, last)


def _search(state: IndexState, query: F32, allowed: U8, k: int) -> tuple[I64, F32]:
    asked = Query(
        vectors=query,
        k=k,
        allowed=allowed,
        masked=True,
        rerank=RERANK_PER_ROW * k,
        recall_target=RECALL_TARGET,
    )
    found = search(state, asked)
    hit = found.ids[0] >= 0
    return found.ids[0][hit], found.distances[0][hit]


def _rising(found: tuple[I64, F32], given: Bool, last: np.float32) -> tuple[I64, F32]:
    """Keep what is new and not nearer than what was given last."""
    ids, distances = found
    fits = ~given[ids] & (distances >= last)
    return ids[fits], distances[fits]


def _rest(
    state: IndexState, query: F32, given: Bool, last: np.float32
) -> Iterator[tuple[I64, F32]]:
    ids = np.flatnonzero(~given)
    distances = distances_to_all(state.rows, query[0], ids)
    late = distances < last
    order = np.lexsort((ids, distances, late))
    for first in range(0, len(order), BATCH_ROWS):
        part = order[first : first + BATCH_ROWS]
        yield ids[part], distances[part]
