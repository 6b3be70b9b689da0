"""The short way to the kernels, for the searches that a service does most.

Where all rows are in lists, a search needs no decision that depends on its queries: how many
lists and rows it looks at is worked out once for a state, or for a state and a mask. So it is where
a filter's few matches are compared, wherever they lie. The full way of ``query.py`` costs tens of
microseconds of Python, a good part of what the kernels take.

Invariant: the answer is that of the full way, or None; None whenever anything is unusual.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .arrays import F32, Bool
from .backend import Depth, Filtered
from .hits import SearchResult
from .mask import Narrowed, PackedMask
from .query import Approach

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
    """``filtered``: matches to be compared where that is cheaper than lists.

    ``lists_only``: whether lists hold all rows.
    """

    depth: Depth
    most_queries: int
    filtered: Filtered | None
    lists_only: bool


class Express:
    """What one state's searches look at, by what they ask for.

    Under a mask that is kept in a mask's own memory of the state.
    """

    def __init__(self) -> None:
        self._routes: dict[Asked, _Route] = {}

    def search(
        self, state: IndexState, queries: F32, asked: Asked, mask: Bool | PackedMask | None
    ) -> SearchResult | None:
        """Answer f32[q, d], or return None where the full way has to."""
        if mask is None:
            routes, bits = self._routes, state.alive_bits
        elif type(mask) is PackedMask and (kept := mask.known(state)) is not None:
            routes, bits = kept.routes, kept.bits
        else:
            return None
        route = routes.get(asked)
        trained = state.trained_part
        if route is None or trained is None or not _plain(queries, state.params.dim):
            return None
        if len(queries) > route.most_queries:
            return None
        lists, rows, depth = trained.lists, state.rows, route.depth
        if route.filtered is not None:
            found = state.backend.search_matches(lists, rows, queries, depth, route.filtered)
            if found is not None or not route.lists_only:
                return found
        found = state.backend.search_lists(lists, rows, queries, depth, bits)
        return found if found.full and not _undefined(found) else None

    def learn(self, asked: Asked, approach: Approach, kept: Narrowed | None) -> None:
        """Take this way for such searches from now on, if there is nothing else to look at."""
        routes: dict[Asked, _Route] = self._routes if kept is None else kept.routes
        trained = approach.trained
        if trained is None or asked in routes or len(routes) >= MOST_KNOWN:
            return
        lists_only = len(approach.tail) == 0 and len(trained.aside) == 0
        if lists_only or approach.filtered is not None:
            depth = Depth(asked.k, approach.nprobe, approach.rerank)
            most = approach.most_queries(asked.k)
            routes[asked] = _Route(depth, most, approach.filtered, lists_only)


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
