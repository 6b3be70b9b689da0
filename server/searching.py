"""What every port calls to search: one request, one consistent state of the index, one answer.

Invariants:

- A search given an LSN never misses a commit at or before it.
- Keys, columns and distances of an answer come from the same published state.
- A search returns min(k, matches) rows, filtered or not.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gpu import PackedMask
from gpu.hits import SearchResult

from .filters import parse
from .keys import Key
from .masks import MaskCache, evaluate
from .mirror import MirrorLike
from .row_lookup import find_row
from .state import MirrorState

Vectors = NDArray[np.float32]

_MASKS = MaskCache()


class BadSearch(Exception):
    """A search that cannot be answered as asked; the message says what to change."""


class WrongDimension(BadSearch):
    """A query has another number of components than the index, which has ``expected``."""

    def __init__(self, expected: int, given: str) -> None:
        self.expected = expected
        super().__init__(
            f"the index has vectors of {expected} components, the query has {given}: "
            "embed the query with the model that made the column"
        )


class NotFinite(BadSearch):
    """A query vector holds NaN, an infinity, or a number beyond float32."""

    def __init__(self, query: int, component: int) -> None:
        super().__init__(
            f"component {component} of query vector {query} is NaN, infinite or beyond float32: "
            "send finite numbers only"
        )


class UnknownRow(BadSearch):
    """``like`` names a key that the index does not hold."""

    def __init__(self) -> None:
        super().__init__(
            "the index holds no row with the key in 'like': it does not exist, has no valid "
            "vector, or has not arrived yet"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """One search. Either ``queries`` (f32[q, d]) or ``like``, the key of an indexed row.

    ``like`` searches by that row's own vector and leaves the row itself out. Effort is ``exact``,
    ``nprobe`` or ``recall_target``, or the index's own choice. ``min_lsn`` waits up to
    ``wait_s`` seconds for that commit.
    """

    k: int
    queries: Vectors | None = None
    like: Key | None = None
    filter: str | None = None
    params: Sequence[Any] | Mapping[str, Any] | None = None
    exact: bool = False
    nprobe: int | None = None
    rerank: int | None = None
    recall_target: float | None = None
    min_lsn: int = 0
    wait_s: float = 10.0

    @property
    def lane(self) -> Hashable | None:
        """Requests of equal lanes can be one search; None stands for a search of its own."""
        if self.like is not None:
            return None
        if self.filter is None:
            return self.kind
        key = self.filter_key
        return None if key is None else (self.kind, key)

    @property
    def kind(self) -> Hashable:
        """Requests of equal kinds cost about the same for each query."""
        how = (self.k, self.exact, self.nprobe, self.rerank, self.recall_target)
        plain = self.filter is None and self.like is None
        return how if plain else (how, self.filter, self.like is None)

    @property
    def filter_key(self) -> Hashable | None:
        """What filter and parameters mean, by value; None where parameters have no such form."""
        params = self.params
        values = params.values() if isinstance(params, Mapping) else params or ()
        try:
            return (self.filter, orjson.dumps(params), tuple(map(type, values)))
        except orjson.JSONEncodeError:
            return None


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """Row ids i64[q, k] (-1 where there are fewer matches) and distances f32[q, k] of ``state``."""

    state: MirrorState
    row_ids: NDArray[np.int64]
    distances: Vectors


def search(mirror: MirrorLike, request: SearchRequest) -> SearchAnswer:
    """Wait for the LSN asked for, then answer from the newest state. Blocking, any thread.

    Raise BadSearch, FilterError, UnknownColumn or StaleIndex.
    """
    if request.min_lsn > mirror.state.applied_lsn:
        mirror.wait_applied(request.min_lsn, request.wait_s)
    return search_together(mirror, [request])[0]


def search_together(mirror: MirrorLike, requests: Sequence[SearchRequest]) -> list[SearchAnswer]:
    """Answer requests of one lane, all from the newest state, with one search of the index."""
    state, first = mirror.state, requests[0]
    if first.lane is None:
        return [_search_alone(mirror, state, request) for request in requests]
    mask = _mask(mirror, state, first)
    if len(requests) == 1:
        found = _run(state, _queries(state, first), first, first.k, mask)
        return [SearchAnswer(state, found.ids, found.distances)]
    parts = [_queries(state, request) for request in requests]
    found = _run(state, np.concatenate(parts), first, first.k, mask)
    answers, start = [], 0
    for part in parts:
        which = slice(start, start + len(part))
        answers.append(SearchAnswer(state, found.ids[which], found.distances[which]))
        start = which.stop
    return answers


def check_queries(queries: Vectors, dim: int) -> None:
    """Raise WrongDimension or NotFinite unless ``queries`` is f32[q, dim] of finite numbers."""
    if queries.shape[1] != dim:
        raise WrongDimension(dim, str(queries.shape[1]))
    # A sum of squares that is finite has finite terms, and costs a tenth of looking at each.
    if queries.flags.c_contiguous and isfinite(np.vdot(queries, queries)):
        return
    finite = np.isfinite(queries)
    if not finite.all():
        query, component = np.argwhere(~finite)[0]
        raise NotFinite(int(query), int(component))


def _search_alone(mirror: MirrorLike, state: MirrorState, request: SearchRequest) -> SearchAnswer:
    """Answer one request that has a filter, or that searches by an indexed row."""
    own = None if request.like is None else _row_like(state, request.like)
    queries = _queries(state, request) if own is None else state.vectors(np.array([own]))
    mask = _mask(mirror, state, request)
    if own is None:
        found = _run(state, queries, request, request.k, mask)
        return SearchAnswer(state, found.ids, found.distances)
    # One hit more than asked for makes room for the row itself.
    found = _run(state, queries, request, request.k + 1, mask)
    others = np.flatnonzero(found.ids[0] != own)[: request.k]
    return SearchAnswer(state, found.ids[:, others], found.distances[:, others])


def _queries(state: MirrorState, request: SearchRequest) -> Vectors:
    assert request.queries is not None, "a request without 'like' has queries"
    check_queries(request.queries, state.index.params.dim)
    return request.queries


def _row_like(state: MirrorState, key: Key) -> int:
    row_id = find_row(state, key)
    if row_id is None:
        raise UnknownRow
    return row_id


def _mask(mirror: MirrorLike, state: MirrorState, request: SearchRequest) -> PackedMask | None:
    """Return which rows the request's filter keeps; known from an earlier search, if it was one."""
    if request.filter is None:
        return None
    key = request.filter_key
    known = None if key is None else _MASKS.find(state, (id(mirror), key))
    if known is not None and known.n_rows == state.n_rows:
        return known
    expression = parse(request.filter, request.params, mirror.spec.column_types)
    mask = evaluate(expression, state, known)
    if key is not None:
        _MASKS.keep(state, (id(mirror), key), mask)
    return mask


def _run(
    state: MirrorState,
    queries: Vectors,
    request: SearchRequest,
    k: int,
    mask: PackedMask | None,
) -> SearchResult:
    return state.index.search(
        queries,
        k,
        mask=mask,
        nprobe=request.nprobe,
        rerank=request.rerank,
        exact=request.exact,
        recall_target=request.recall_target,
    )
