"""The short way to the kernels, for the searches that a service does most.

Where all rows are in lists, a search without a filter needs no decision that depends on its
queries: how many lists and rows it looks at is worked out once for a state. The full way of
``query.py`` costs some microseconds of Python, a good part of what the kernels take.

Invariant: the answer is that of the full way, or None; None whenever anything is unusual.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .arrays import F32
from .backend import Depth
from .hits import SearchResult
from .query import Approach, Query

if TYPE_CHECKING:
    from .state import IndexState

#: Different searches remembered for one state; services use a handful.
MOST_KNOWN = 256


class Asked(NamedTuple):
    """What a search says about its answer."""

    k: int
    nprobe: int | None
    rerank: int | None
    recall_target: float | None


class _Route(NamedTuple):
    depth: Depth
    most_queries: int


class Express:
    """What one state's searches look at, by what they ask for."""

    def __init__(self) -> None:
        self._routes: dict[Asked, _Route] = {}

    def search(self, state: IndexState, queries: F32, asked: Asked) -> SearchResult | None:
        """Answer f32[q, d], or return None where the full way has to."""
        route = self._routes.get(asked)
        trained = state.trained_part
        if route is None or trained is None or not _plain(queries, state.params.dim):
            return None
        if len(queries) > route.most_queries:
            return None
        found = state.backend.search_lists(
            trained.lists, state.rows, queries, route.depth, state.alive_bits
        )
        return found if found.full and not _undefined(found) else None

    def learn(self, state: IndexState, asked: Asked, query: Query) -> None:
        """Take this way for such searches from now on, if nothing but lists is to be looked at."""
        if asked in self._routes or len(self._routes) >= MOST_KNOWN:
            return
        approach = Approach.of(state, query)
        trained = approach.trained
        if trained is None or len(approach.tail) or len(trained.aside):
            return
        depth = Depth(asked.k, approach.nprobe, approach.rerank)
        self._routes[asked] = _Route(depth, approach.most_queries(asked.k))


def _plain(queries: F32, dim: int) -> bool:
    """Whether queries are what kernels read: f32[q, d] in one piece, all of it finite."""
    if type(queries) is not np.ndarray or queries.dtype != np.float32 or queries.ndim != 2:
        return False
    if queries.shape[1] != dim or not queries.flags.c_contiguous or len(queries) == 0:
        return False
    # A sum of squares that is finite has finite terms; others take the full way.
    return isfinite(np.vdot(queries, queries))


def _undefined(found: SearchResult) -> bool:
    """Whether a distance is NaN: a zero query under cosine."""
    if len(found.ids) == 1:
        return not isfinite(found.distances.item(0))
    return not np.isfinite(found.distances[:, 0]).all()
