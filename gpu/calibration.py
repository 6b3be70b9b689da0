"""Measuring a plan: held-out rows as queries, exact search as the truth.

A row with the same distance as the k-th neighbour counts as found, so that duplicates do not look
like misses. The query's own row never counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .arrays import F32, I32, I64, U8, AnyArray, Bool
from .bitmap import pack
from .plan import Plan, Step

if TYPE_CHECKING:
    from .state import IndexState
    from .trained import Trained

TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
NEIGHBOURS = (10, 100)
#: Shares of the rows that filters keep; 1: no filter. Smaller ones leave too few rows to measure.
SHARES = (1.0, 0.1, 0.01)
#: Neighbours fetched for the truth, so that rows tied with the k-th are known too.
TRUTH_ROWS = 2 * max(NEIGHBOURS)
#: The largest number of candidates looked at per neighbour asked for.
DEEPEST_RERANK = 20
#: Of the recall that may be lost, this share may be lost by not probing a list.
COVERAGE_SHARE = 0.7
#: Held-out rows are a sample: aim a little above the target.
MARGIN = 0.1
#: With fewer queries a measurement says nothing.
FEWEST_QUERIES = 16
#: The first scan covers this many times sqrt(nlist) lists: enough for most goals on real data.
FIRST_PROBES = 7
#: Lists are added in these steps while re-ranking more rows does not reach the target.
PROBE_GROWTH = 1.25
#: Vectors beyond this size get fewer queries, whose exact search is what takes the time.
WIDE_DIM = 2048


@dataclass(frozen=True, slots=True, eq=False)
class _Truth:
    """Of q queries: rows i64[q, t], which are true, and their lists' places in probing order.

    Queries with more rows tied at the k-th distance than were fetched are left out.
    """

    k: int
    queries: I64
    ids: I64
    is_true: Bool
    list_rank: I64

    def coverage(self, nprobe: int) -> float:
        """Share of the k neighbours that lie in the first ``nprobe`` lists."""
        covered = self.is_true & (self.list_rank < nprobe)
        return float(np.minimum(covered.sum(axis=1), self.k).mean() / self.k)

    def found_in(self, scanned: _Scanned) -> _Found:
        """Look for the true rows among those that a scan gave."""
        true = np.where(self.is_true, self.ids, -1)
        return _Found(scanned, self.queries, scanned.columns(self.queries, true))

    def curve(self, found_in: _Found, nprobe: int) -> AnyArray:
        """Recall f64[r] when the best 1 to r rows of the first ``nprobe`` lists are re-ranked."""
        place = found_in.places(nprobe)
        found = np.sort(np.where(place < 0, np.iinfo(np.int64).max, place), axis=1)[:, : self.k]
        depth = DEEPEST_RERANK * self.k
        aside = np.minimum((self.is_true & (self.list_rank < 0)).sum(axis=1), self.k)
        # Rows set aside are found anyway, so that many fewer of the others count.
        found[np.arange(found.shape[1]) >= self.k - aside[:, None]] = depth
        counts = np.bincount(np.minimum(found, depth).ravel(), minlength=depth + 1)[:depth]
        shares: AnyArray = (np.cumsum(counts) + aside.sum()) / (self.k * len(self.queries))
        return shares


@dataclass(frozen=True, slots=True, eq=False)
class _Scanned:
    """What one scan of ``nprobe`` lists gave: ids i64[q, r], best first, and their lists' ranks.

    A scan of fewer lists would give the same rows in the same order, without those of the lists
    left out; so one scan tells about all of them.
    """

    nprobe: int
    ids: I64
    list_rank: I64

    def columns(self, queries: I64, wanted: I64) -> I64:
        """Return in which column i64[q, t] of ``ids`` each wanted row is, or -1."""
        columns = np.full(wanted.shape, -1, np.int64)
        for i, query in enumerate(queries):
            mine = self.ids[query]
            by_id = np.argsort(mine)
            at = np.minimum(np.searchsorted(mine, wanted[i], sorter=by_id), len(mine) - 1)
            hit = (mine[by_id[at]] == wanted[i]) & (wanted[i] >= 0)
            columns[i, hit] = by_id[at[hit]]
        return columns


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """In which columns i64[q, t] of a scan's rows those are that some queries want; -1: in none."""

    scanned: _Scanned
    queries: I64
    columns: I64

    def places(self, nprobe: int) -> I64:
        """Return the place i64[q, t] of each wanted row among those of the first lists, or -1."""
        seen = self.scanned.list_rank[self.queries] < nprobe
        seen &= self.scanned.ids[self.queries] >= 0
        at = np.maximum(self.columns, 0)
        places = np.take_along_axis(np.cumsum(seen, axis=1) - 1, at, axis=1)
        there = np.take_along_axis(seen, at, axis=1) & (self.columns >= 0)
        return np.where(there, places, -1)


def calibrate(
    state: IndexState,
    trained: Trained,
    held_out: I64,
    queries: F32,
    on_step: Callable[[int, int], None],
) -> Plan:
    """Measure a plan for the rows of ``trained``; an empty plan where there are too few rows."""
    nlist = trained.codec.nlist
    if state.params.dim > WIDE_DIM:
        held_out, queries = held_out[::4], queries[::4]
    if nlist == 1:
        return Plan(nlist)
    steps: list[Step] = []
    contents = trained.lists.contents()
    list_of = np.full(state.n_rows, -1, np.int32)
    list_of[contents.row_ids] = contents.list_ids
    for done, share in enumerate(SHARES):
        on_step(done, len(SHARES))
        measure = _Measure(state, trained, held_out, queries, list_of, share)
        ks = [k for k in NEIGHBOURS if measure.knows(k)]
        steps += [measure.step(k, target) for k in ks for target in TARGETS]
    return Plan(nlist, tuple(steps))


class _Measure:
    """Search results of the held-out rows, each list scan done once, under a random filter."""

    def __init__(
        self,
        state: IndexState,
        trained: Trained,
        held_out: I64,
        queries: F32,
        list_of: I32,
        share: float,
    ) -> None:
        self._state, self._trained, self._list_of = state, trained, list_of
        self._held_out, self._share = held_out, share
        self._where, self._allowed, self._matches = _filtered(state, share)
        self._placed = trained.codec.place_queries(queries)
        nlist = trained.codec.nlist
        backend = state.backend
        self._probes, self._constants = backend.choose_lists(trained.codec, self._placed, nlist)
        self._hits = backend.exact(state.rows, queries, TRUTH_ROWS + 1, self._where, self._allowed)
        self._rank_of_list = self._places()
        self._list_rank = self._ranks(self._hits.ids)
        self._scanned = self._scan(min(nlist, max(1, round(FIRST_PROBES * math.sqrt(nlist)))))
        self._found: dict[int, _Found] = {}

    def knows(self, k: int) -> bool:
        """Whether enough queries have a truth to measure ``k`` neighbours with."""
        return self._matches > 4 * k and len(self._truth(k).queries) >= FEWEST_QUERIES

    def step(self, k: int, target: float) -> Step:
        """Return the cheapest setting found that reaches ``target`` for ``k`` neighbours."""
        truth = self._truth(k)
        goal = target + MARGIN * (1 - target)
        nlist = self._trained.codec.nlist
        nprobe = self._first_nprobe(truth, 1 - COVERAGE_SHARE * (1 - goal))
        while True:
            if nprobe > self._scanned.nprobe:
                self._scanned = self._scan(min(nlist, 2 * nprobe))
            if self._found.get(k) is None or self._found[k].scanned is not self._scanned:
                self._found[k] = truth.found_in(self._scanned)
            curve = truth.curve(self._found[k], nprobe)
            reached = np.flatnonzero(curve >= goal)
            if len(reached):
                return Step(k, target, nprobe, max(k, int(reached[0]) + 1), self._share)
            if nprobe >= nlist:
                return Step(k, target, nlist, DEEPEST_RERANK * k, self._share)
            nprobe = min(nlist, math.ceil(PROBE_GROWTH * nprobe))

    def _first_nprobe(self, truth: _Truth, coverage: float) -> int:
        low, high = 1, self._trained.codec.nlist
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if truth.coverage(middle) >= coverage else (middle + 1, high)
        return low

    def _truth(self, k: int) -> _Truth:
        own = self._hits.ids == self._held_out[:, None]
        distances = np.where(own | (self._hits.ids < 0), np.nan, self._hits.distances)
        kth = np.sort(distances, axis=1)[:, k - 1]
        known = np.flatnonzero(kth < self._hits.distances[:, -1])
        is_true = distances[known] <= kth[known, None]
        return _Truth(k, known, self._hits.ids[known], is_true, self._list_rank[known])

    def _places(self) -> I64:
        """Return each list's place in each query's probing order, i64[q, L]."""
        rank = np.empty(self._probes.shape, np.int64)
        places = np.broadcast_to(np.arange(self._probes.shape[1]), self._probes.shape)
        np.put_along_axis(rank, self._probes.astype(np.int64), places, axis=1)
        return rank

    def _ranks(self, row_ids: I64) -> I64:
        """Return the place of each row's list in its query's probing order; -1: in no list."""
        lists = self._list_of[row_ids].astype(np.int64)
        found = np.take_along_axis(self._rank_of_list, np.maximum(lists, 0), axis=1)
        return np.where(lists < 0, -1, found)

    def _scan(self, nprobe: int) -> _Scanned:
        """Return the best-scored rows of the first ``nprobe`` lists, the query's own left out."""
        limit = min(DEEPEST_RERANK * max(NEIGHBOURS), self._state.n_rows) + 1
        ids, _ = self._state.backend.scan(
            self._trained.lists,
            self._placed,
            self._probes[:, :nprobe],
            self._constants[:, :nprobe],
            self._allowed,
            limit,
        )
        ids = _without(ids, self._held_out)
        return _Scanned(nprobe, ids, self._ranks(ids))


def _filtered(state: IndexState, share: float) -> tuple[range | I64, U8, int]:
    """Return a random filter's rows: where they are, their packed bitmap and their number."""
    if share == 1:
        return range(state.n_rows), state.alive_bits, state.live_rows
    kept = np.random.default_rng(state.params.seed).random(state.n_rows) < share
    kept &= state.alive()
    return np.flatnonzero(kept), pack(kept), int(np.count_nonzero(kept))


def _without(ids: I64, own: I64) -> I64:
    """Move each query's own row to the end and cut one column off."""
    order = np.argsort(ids == own[:, None], axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1)[:, :-1]
