"""How a state answers a search: which rows to look at, and how closely."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .arrays import F32, I64, U8, Bool
from .backend import Depth, Filtered
from .bitmap import bits_at, count, unpack
from .errors import BadInput
from .hits import SearchResult, merge, no_hits
from .trained import Trained

if TYPE_CHECKING:
    from .state import IndexState

#: Candidates of all queries answered together: bounds the memory that they take.
BLOCK_CANDIDATES = 1 << 22
#: A filter with at most this many matches is searched exactly, whatever the lists would cost.
FEW_MATCHES = 4096
#: So is one whose matches are at most this share of the rows that a scan would score: an exact
#: distance costs several times a score, and there is nothing to miss.
EXACT_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One search: vectors f32[q, d], and ``allowed`` = alive AND mask as a packed bitmap.

    ``matches``: how many rows that allows, if it is known.
    """

    vectors: F32
    k: int
    allowed: U8
    masked: bool
    nprobe: int | None = None
    rerank: int | None = None
    exact: bool = False
    recall_target: float | None = None
    matches: int | None = None

    def part(self, which: slice) -> Query:
        """Return the same search for some of the vectors."""
        return replace(self, vectors=self.vectors[which])

    def __post_init__(self) -> None:
        """Raise BadInput for a number out of range."""
        for name in ("k", "nprobe", "rerank"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"{name} must be at least 1, not {value}")
        if self.recall_target is not None and not 0 < self.recall_target <= 1:
            raise BadInput("recall_target must be above 0 and at most 1")


def search(state: IndexState, query: Query, plan: Approach | None = None) -> SearchResult:
    """Answer ``query`` from ``state``; ``plan``: the approach, if it has been decided."""
    if len(query.vectors) == 0:
        return no_hits(0, query.k)
    plan = plan or Approach.of(state, query)
    block = plan.most_queries(query.k)
    if len(query.vectors) <= block:
        return _with_undefined(state, query, plan.search(query))
    parts = [
        plan.search(query.part(slice(first, first + block)))
        for first in range(0, len(query.vectors), block)
    ]
    ids = np.concatenate([part.ids for part in parts])
    distances = np.concatenate([part.distances for part in parts])
    return _with_undefined(state, query, SearchResult(ids, distances))


class Approach(NamedTuple):
    """Where a query looks: rows searched exactly, and for the rest lists (or None) at a depth.

    ``tail`` are rows searched exactly: a range under the bitmap, or the ids of a filter's matches.
    ``filtered``: matches that the backend may search by itself, wherever they lie.
    """

    state: IndexState
    tail: range | I64
    trained: Trained | None
    nprobe: int = 0
    rerank: int = 0
    filtered: Filtered | None = None

    @classmethod
    def of(cls, state: IndexState, query: Query) -> Approach:
        """Decide for the queries of one search, by their number of matches and the plan."""
        trained, n_rows = state.trained_part, state.n_rows
        if query.exact or query.recall_target == 1 or trained is None:
            return cls(state, _matches(query, 0, n_rows), None)
        matches = _count(query, n_rows) if query.masked else state.live_rows
        share = matches / max(1, state.live_rows)
        nprobe, rerank = query.nprobe or 0, query.rerank or 0
        if not (nprobe and rerank):
            planned = trained.plan.choose(query.k, query.recall_target, share)
            nprobe, rerank = nprobe or planned[0], rerank or planned[1]
        scanned = state.live_rows * min(1.0, nprobe / trained.codec.nlist)
        picks = query.masked and state.backend.picks_matches
        if query.masked and not picks and matches <= max(FEW_MATCHES, EXACT_SHARE * scanned):
            return cls(state, _matches(query, 0, n_rows), None)
        tail = _matches(query, trained.encoded_rows, n_rows)
        filtered = Filtered(query.allowed, n_rows, matches, state.live_rows) if picks else None
        return cls(state, tail, trained, nprobe, max(query.k, rerank), filtered)

    def most_queries(self, k: int) -> int:
        """Return how many queries are answered together."""
        return max(1, min(self.state.backend.most_queries, BLOCK_CANDIDATES // max(self.rerank, k)))

    def search(self, query: Query) -> SearchResult:
        """Return the nearest of both kinds of rows."""
        if self.trained is None:
            return self._exact(query, self.tail)
        if self.filtered is not None and (found := self._from_matches(self.trained, query)):
            return found
        hits = self._from_lists(self.trained, query)
        for where in (self.tail, self.trained.aside):
            if len(where):
                hits = merge(hits, self._exact(query, where), query.k)
        return hits

    def _exact(self, query: Query, where: range | I64) -> SearchResult:
        state = self.state
        return state.backend.exact(state.rows, query.vectors, query.k, where, query.allowed)

    def _from_matches(self, trained: Trained, query: Query) -> SearchResult | None:
        assert self.filtered is not None
        depth = Depth(query.k, self.nprobe, self.rerank)
        state = self.state
        return state.backend.search_matches(
            trained.lists, state.rows, query.vectors, depth, self.filtered
        )

    def _from_lists(self, trained: Trained, query: Query) -> SearchResult:
        """Scan and re-rank; queries with fewer than k candidates probe twice as many lists."""
        backend, codec, rows = self.state.backend, trained.codec, self.state.rows
        depth = Depth(query.k, self.nprobe, self.rerank)
        result = backend.search_lists(trained.lists, rows, query.vectors, depth, query.allowed)
        if result.full:
            return result
        open_ = np.flatnonzero(result.ids[:, -1] < 0)
        near = codec.in_range(codec.place_queries(query.vectors[open_]))
        self._exactly(query, open_[~near], result)
        open_ = open_[near]
        while len(open_) and depth.nprobe < codec.nlist:
            depth = depth._replace(nprobe=2 * depth.nprobe)
            vectors = query.vectors[open_]
            more = backend.search_lists(trained.lists, rows, vectors, depth, query.allowed)
            result.ids[open_], result.distances[open_] = more.ids, more.distances
            open_ = open_[more.ids[:, -1] < 0]
        return result

    def _exactly(self, query: Query, which: I64, result: SearchResult) -> None:
        """Answer queries too far out for float32 scores from the encoded rows themselves."""
        if len(which) == 0 or self.trained is None:
            return
        where = range(self.trained.encoded_rows)
        in_lists = _without(query.allowed, self.trained.aside)
        rows, vectors = self.state.rows, query.vectors[which]
        best = self.state.backend.exact(rows, vectors, query.k, where, in_lists)
        result.ids[which], result.distances[which] = best.ids, best.distances


def _matches(query: Query, start: int, stop: int) -> range | I64:
    """Rows of [start, stop) to search: all under the bitmap, or those that a filter leaves."""
    if not query.masked or start == stop:
        return range(start, stop)
    return start + np.flatnonzero(unpack(query.allowed, start, stop))


def _count(query: Query, n_rows: int) -> int:
    return count(query.allowed, n_rows) if query.matches is None else query.matches


def _without(allowed: U8, row_ids: I64) -> U8:
    bits = allowed.copy()
    np.bitwise_and.at(bits, row_ids >> 3, ~(np.uint8(1) << (row_ids & 7).astype(np.uint8)))
    return bits


def _with_undefined(state: IndexState, query: Query, hits: SearchResult) -> SearchResult:
    """Append rows whose cosine distance is NaN, as Postgres sorts them: last, here by row id.

    These are zero rows, and every row when the query is zero.
    """
    if state.params.metric != "cosine" or (hits.full and not np.isnan(hits.distances[:, 0]).any()):
        return hits
    is_zero: Bool = np.all(query.vectors == 0, axis=1)
    short: Bool = hits.ids[:, -1] < 0
    if is_zero.any():
        every_row = np.flatnonzero(unpack(query.allowed, 0, state.n_rows))
        for i in np.flatnonzero(is_zero):
            _fill(hits, int(i), 0, every_row)
    if (short & ~is_zero).any():
        zero_rows = _allowed_only(query.allowed, state.rows.zero_norm_ids(state.n_rows))
        for i in np.flatnonzero(short & ~is_zero):
            _fill(hits, int(i), int(np.count_nonzero(hits.ids[i] >= 0)), zero_rows)
    return hits


def _fill(hits: SearchResult, i: int, first: int, row_ids: I64) -> None:
    """Replace the hits of query ``i`` from place ``first`` on by rows of distance NaN."""
    end = min(hits.ids.shape[1], first + len(row_ids))
    hits.ids[i, first:], hits.distances[i, first:] = -1, np.inf
    hits.ids[i, first:end] = row_ids[: end - first]
    hits.distances[i, first:end] = np.nan


def _allowed_only(allowed: U8, row_ids: I64) -> I64:
    return row_ids[bits_at(allowed, row_ids)]
