"""What a SELECT reads, in order, lazily: row ids and distances, batch after batch. Any thread.

Without LIMIT a search goes on by rising distance until nobody asks for more; with k or LIMIT it is
one search. A distance in WHERE that stops no search is computed for every row, so that what a
range holds is exactly what it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpu.exact import distances_to_all
from server.columns import ColumnView
from server.state import MirrorState

from .binding import Bound
from .key_columns import key_column
from .outputs import Distances, IDs
from .plans import distance_name
from .sorting import sorted_rows, within_ties

Mask = NDArray[np.bool_]
#: Row ids and their distances; no distances where nothing is searched.
Batch = tuple[IDs, Distances | None]

#: Up to this many rows one search is best; for more a cursor's growing searches are.
MOST_SEARCHED = 4096
_BATCH_ROWS = 4096
#: Rows that ANALYZE gets at most: 300 times Postgres' default statistics target of 100.
SAMPLE_ROWS = 30_000
_SEED = 20_261_122


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


def mask_of(state: MirrorState, bound: Bound) -> Mask | None:
    """Return which rows (bool[n]) the filters keep, None for all; raise FilterError."""
    if not bound.filters:
        return None
    columns, alive = Columns(state, bound), state.index.alive()
    mask = alive
    for one in bound.filters:
        mask = mask & one.evaluate(columns.column, state.n_rows, mask)
    return mask


def count(state: MirrorState, bound: Bound) -> int:
    """Return the number of rows that a query finds."""
    if bound.nothing:
        return 0
    if bound.below is not None:
        return sum(len(ids) for ids, _ in batches(state, replace(bound, limit=None, offset=0)))
    mask = mask_of(state, bound)
    rows = state.index.live_rows if mask is None else int(np.count_nonzero(mask))
    if bound.k is not None:
        rows = min(rows, bound.k)
    return rows


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
        here = found.ids[0] >= 0
        yield found.ids[0][here], found.distances[0][here]
    elif _is_range(bound):
        yield _ranked(state, bound.query, mask)
    else:
        yield from state.index.iterate(bound.query, mask)


def _is_range(bound: Bound) -> bool:
    """Whether the filter computed every distance anyway."""
    name = distance_name(0)
    return any(name in one.columns for one in bound.filters)


def _ranked(state: MirrorState, query: NDArray[np.float32], mask: Mask | None) -> Batch:
    ids = np.flatnonzero(state.index.alive() if mask is None else mask)
    distances = distances_to_all(state.index.rows, query, ids)
    order = np.lexsort((ids, distances))
    return ids[order], distances[order]


def _scan(state: MirrorState, bound: Bound, mask: Mask | None) -> Iterator[Batch]:
    ids = np.flatnonzero(state.index.alive() if mask is None else mask)
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
