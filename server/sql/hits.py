"""What a SELECT reads, in order, lazily: row ids and distances, batch after batch. Any thread.

Without LIMIT a search goes on by rising distance until nobody asks for more; with k or LIMIT it is
one search. A distance in WHERE that stops no search is computed for every row, so that what a
range holds is exactly what it holds.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpu import PackedMask
from gpu.bitmap import count as count_bits
from gpu.bitmap import unpack
from gpu.exact import distances_to_all
from server.columns import ColumnView
from server.masks import MaskCache, evaluate
from server.state import MirrorState

from .binding import Bound
from .key_columns import key_column
from .outputs import Distances, IDs
from .plans import distance_name
from .sorting import sorted_rows, within_ties

#: Row ids and their distances; no distances where nothing is searched.
Batch = tuple[IDs, Distances | None]

#: Up to this many rows one search is best; for more a cursor's growing searches are.
MOST_SEARCHED = 4096
_BATCH_ROWS = 4096
#: Rows that ANALYZE gets at most: 300 times Postgres' default statistics target of 100.
SAMPLE_ROWS = 30_000
_SEED = 20_261_122
#: Filters' answers of all sessions; those of HTTP are kept beside them.
_MASKS = MaskCache(32 << 20)


@dataclass(slots=True)
class Columns:
    """The columns of one state that filters read: mirrored ones, keys, distances."""

    state: MirrorState
    bound: Bound

    def column(self, name: str) -> ColumnView:
        """Return a column over all row ids."""
        key = self.bound.plan.table.key
        if name in key:
            return key_column(self.state, key.index(name))
        if name in self.state.columns:
            return self.state.column(name)
        return self._distance(int(name.removeprefix(distance_name(0)[:-1])))

    def _distance(self, slot: int) -> ColumnView:
        vector = self.bound.vectors[slot]
        assert vector is not None
        values = np.full(self.state.n_rows, np.nan)
        living = np.flatnonzero(self.state.index.alive())
        values[living] = distances_to_all(self.state.index.rows, vector, living)
        return ColumnView("float8", np.ones(len(values), np.bool_), values)


def mask_of(state: MirrorState, bound: Bound) -> PackedMask | None:
    """Return which rows the filters keep, None for all; kept for the next search like it.

    Dead rows may be in it. Raise FilterError.
    """
    if not bound.filters:
        return None
    key = bound.mask_key
    known = None if key is None else _MASKS.find(state, key)
    if known is not None and known.n_rows == state.n_rows:
        return known
    mask = _evaluated(state, bound, known)
    if key is not None:
        _MASKS.keep(state, key, mask)
    return mask


def _evaluated(state: MirrorState, bound: Bound, known: PackedMask | None) -> PackedMask:
    """Evaluate the filters over the rows that ``known`` is not of; the first for the second's."""
    filters = bound.filters
    if len(filters) == 1 and filters[0].columns <= state.columns.keys():
        return evaluate(filters[0], state, known)
    columns = Columns(state, bound)
    # Bits are packed eight to a byte: the last byte is worked out anew.
    first = 0 if known is None else known.n_rows & ~7
    fresh = np.arange(first, state.n_rows) if first else None

    def column(name: str) -> ColumnView:
        whole = columns.column(name)
        return whole if fresh is None else whole.take(fresh)

    # Rows that have died may match: in an earlier state, pinned by somebody, they live.
    alive = state.index.alive()[first:]
    mask = np.ones(len(alive), np.bool_)
    for one in filters:
        mask &= one.evaluate(column, len(mask), alive & mask)
    new = PackedMask.of(mask)
    if known is None or fresh is None:
        return new
    return PackedMask(np.concatenate([known.bits[: first >> 3], new.bits]), state.n_rows)


def _rows(state: MirrorState, mask: PackedMask | None) -> IDs:
    """Return the living rows of a mask, i64[r]."""
    if mask is None:
        return np.flatnonzero(state.index.alive())
    bits = mask.bits & state.index.alive_bits[: len(mask.bits)]
    return np.flatnonzero(unpack(bits, 0, state.n_rows))


def count(state: MirrorState, bound: Bound) -> int:
    """Return the number of rows that a query finds."""
    if bound.nothing:
        return 0
    if bound.below is not None:
        return sum(len(ids) for ids, _ in batches(state, replace(bound, limit=None, offset=0)))
    mask = mask_of(state, bound)
    rows = state.index.live_rows if mask is None else _matches(state, mask)
    if bound.k is not None:
        rows = min(rows, bound.k)
    return rows


def _matches(state: MirrorState, mask: PackedMask) -> int:
    return count_bits(mask.bits & state.index.alive_bits[: len(mask.bits)], state.n_rows)


@dataclass(frozen=True, slots=True, eq=False)
class OneSearch:
    """A query that is one search of the index: k or LIMIT, by distance. ``state`` answers it."""

    state: MirrorState
    bound: Bound

    @classmethod
    def of(cls, state: MirrorState, bound: Bound) -> OneSearch | None:
        """Return a query as one search, None if it is none."""
        wanted, order = bound.wanted, bound.plan.order
        if bound.query is None or bound.nothing or wanted is None:
            return None
        if not 0 < wanted <= MOST_SEARCHED or len(order) > 1 or (order and not bound.by_distance):
            return None
        return cls(state, bound)

    @property
    def lane(self) -> Hashable | None:
        """Searches of equal lanes can be one; None stands for a search of its own."""
        bound = self.bound
        if bound.filters and bound.mask_key is None:
            return None
        return id(self.state), bound.wanted, bound.recall_target, bound.mask_key


def search_together(searches: Sequence[OneSearch]) -> list[Iterator[Batch]]:
    """Answer searches of one lane with one search of the index; raise FilterError."""
    state, bound = searches[0].state, searches[0].bound
    assert bound.wanted is not None
    queries = [one.bound.query for one in searches]
    found = state.index.search(
        np.stack([query for query in queries if query is not None]),
        bound.wanted,
        mask=mask_of(state, bound),
        recall_target=bound.recall_target,
    )
    return [
        _cut(_below(iter([_hits(ids, distances)]), one.bound), one.bound)
        for one, ids, distances in zip(searches, found.ids, found.distances, strict=True)
    ]


def _hits(ids: IDs, distances: Distances) -> Batch:
    """Leave out what stands for no row."""
    if len(ids) and ids[-1] >= 0:
        return ids, distances
    here = ids >= 0
    return ids[here], distances[here]


def batches(state: MirrorState, bound: Bound) -> Iterator[Batch]:
    """Yield the rows of a query in its order, those to skip left out."""
    if bound.nothing or bound.wanted == 0:
        return
    found = _below(_found(state, bound), bound)
    keys = bound.plan.order
    if keys and not bound.by_distance:
        inner = replace(bound, limit=None, offset=0)
        found = sorted_rows(state, bound, _cut(_below(_found(state, inner), inner), inner))
    elif len(keys) > 1:
        found = within_ties(state, bound, found)
    yield from _cut(found, bound)


def _found(state: MirrorState, bound: Bound) -> Iterator[Batch]:
    """Yield the rows of a query, by rising distance if it has a vector, else by row id."""
    mask = mask_of(state, bound)
    if bound.query is None:
        yield from _scan(state, bound, mask)
        return
    wanted = bound.wanted
    if wanted is not None and wanted <= MOST_SEARCHED and len(bound.plan.order) < 2:
        found = state.index.search(
            bound.query[None], wanted, mask=mask, recall_target=bound.recall_target
        )
        yield _hits(found.ids[0], found.distances[0])
    elif _is_range(bound):
        yield _ranked(state, bound.query, mask)
    else:
        yield from state.index.iterate(bound.query, mask)


def _is_range(bound: Bound) -> bool:
    """Whether the filter computed every distance anyway."""
    name = distance_name(0)
    return any(name in one.columns for one in bound.filters)


def _ranked(state: MirrorState, query: NDArray[np.float32], mask: PackedMask | None) -> Batch:
    ids = _rows(state, mask)
    distances = distances_to_all(state.index.rows, query, ids)
    order = np.lexsort((ids, distances))
    return ids[order], distances[order]


def _scan(state: MirrorState, bound: Bound, mask: PackedMask | None) -> Iterator[Batch]:
    ids = _rows(state, mask)
    share = bound.plan.sample
    if share is not None:
        chosen = np.random.default_rng(_SEED).random(len(ids)) < share
        ids = ids[chosen]
    for first in range(0, len(ids), _BATCH_ROWS):
        yield ids[first : first + _BATCH_ROWS], None


def sampled(state: MirrorState) -> Iterator[Batch]:
    """Yield a random sample for ANALYZE, by row id."""
    ids = np.flatnonzero(state.index.alive())
    if len(ids) > SAMPLE_ROWS:
        ids = np.sort(np.random.default_rng(_SEED).choice(ids, SAMPLE_ROWS, replace=False))
    yield ids, None


def _below(found: Iterator[Batch], bound: Bound) -> Iterator[Batch]:
    """End where distances pass the bound."""
    if bound.below is None:
        yield from found
        return
    for ids, distances in found:
        assert distances is not None
        # A NaN is no distance, and greater than all.
        near = distances.astype(np.float64)
        keep = near <= bound.below if bound.inclusive else near < bound.below
        yield ids[keep], distances[keep]
        if len(keep) and not keep[-1]:
            return


def _cut(found: Iterator[Batch], bound: Bound) -> Iterator[Batch]:
    """Apply k, OFFSET and LIMIT."""
    place, end = 0, bound.wanted
    for ids, distances in found:
        start = max(0, bound.offset - place)
        stop = len(ids) if end is None else min(len(ids), end - place)
        place += len(ids)
        if start < stop:
            part = slice(start, stop)
            yield ids[part], None if distances is None else distances[part]
        if end is not None and place >= end:
            return
