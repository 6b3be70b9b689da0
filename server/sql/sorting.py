"""ORDER BY what is not the search's distance: all rows read, then sorted by their values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.filters import check_value
from server.filters.values import Arrays, Values
from server.state import MirrorState

from .binding import Bound
from .errors import SqlError
from .outputs import Distances, IDs, Page
from .statements import OrderKey

Batch = tuple[IDs, Distances | None]


def sorted_rows(state: MirrorState, bound: Bound, found: Iterable[Batch]) -> Iterator[Batch]:
    """Yield all rows in the order asked for, ties by row id."""
    batch = _joined(list(found))
    if batch is None:
        return
    ids, distances = batch
    order = _order(Page(state, bound, ids, distances), bound.plan.order)
    yield ids[order], None if distances is None else distances[order]


def within_ties(state: MirrorState, bound: Bound, found: Iterable[Batch]) -> Iterator[Batch]:
    """Sort rows of equal distance by the further keys; distances rise already."""
    held: Batch | None = None
    for batch in found:
        held = batch if held is None else _joined([held, batch])
        assert held is not None
        ids, distances = held
        assert distances is not None
        # The last distance may go on in the next batch.
        done = int(np.searchsorted(distances, distances[-1])) if len(distances) else 0
        if done:
            yield _tied(state, bound, ids[:done], distances[:done])
            held = ids[done:], distances[done:]
    if held is not None and held[1] is not None:
        yield _tied(state, bound, held[0], held[1])


def _tied(state: MirrorState, bound: Bound, ids: IDs, distances: Distances) -> Batch:
    order = _order(Page(state, bound, ids, distances), bound.plan.order)
    return ids[order], distances[order]


def _joined(batches: list[Batch]) -> Batch | None:
    if not batches:
        return None
    ids = np.concatenate([ids for ids, _ in batches])
    distances = [part for _, part in batches if part is not None]
    return ids, np.concatenate(distances) if distances else None


def _order(page: Page, keys: tuple[OrderKey, ...]) -> NDArray[np.int64]:
    columns: list[NDArray[Any]] = [page.ids]
    for key in reversed(keys):
        expression = check_value(key.value, dict(page.bound.values), page.bound.plan.types)
        vector = expression.evaluate(page.column, len(page.ids))
        if isinstance(vector, Arrays):
            raise SqlError("0A000", "ORDER BY an array is not served here")
        if vector.rows == 1:
            continue
        ranks = -_ranks(vector) if key.descending else _ranks(vector)
        columns.append(ranks)
        if vector.null is not None:
            ranks[vector.null] = 0
            columns.append(vector.null != key.nulls_first)
    order: NDArray[np.int64] = np.lexsort(columns)
    return order


def _ranks(values: Values) -> NDArray[np.int64]:
    """Return numbers that order the values as Postgres does: NaN last, text by its bytes."""
    if values.words is not None:
        words = list(values.words)
        places = sorted(range(len(words)), key=words.__getitem__)
        ranks = np.empty(len(words), np.int64)
        ranks[places] = np.arange(len(words))
        return np.asarray(ranks[values.data])
    _, ranks = np.unique(values.data, return_inverse=True)
    return ranks.astype(np.int64)
