"""Array kernels: && @> <@, comparisons and ARRAY[...], on offsets and flattened items.

A NULL item overlaps nothing and is contained in nothing, but two NULL items compare as equal
(utils/adt/arrayfuncs.c).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compare import COMPARISONS, comparable, compare, is_member
from .guard import Guard
from .sqltypes import array_of
from .values import Arrays, Mask, Values, is_null, text, truth

#: Up to this many wanted items, a pass for each beats counting the distinct ones per row.
_FEW_ITEMS = 32


def overlaps(guard: Guard, a: Arrays, b: Arrays) -> Values:
    """Return a && b."""
    if a.rows == 1 and b.rows != 1:
        return overlaps(guard, b, a)
    if b.rows != 1:
        pairs_a, pairs_b = _pairs(a, b)
        return truth(_rows_with(b, pairs_b[1][np.isin(pairs_b[0], pairs_a[0])]))
    return truth(any_item(a, is_member(a.items, b.items) & ~is_null(a.items)))


def contains(guard: Guard, a: Arrays, b: Arrays) -> Values:
    """Return a @> b."""
    if a.rows == 1:
        missing = ~is_member(b.items, a.items) | is_null(b.items)
        return truth(~any_item(b, missing))
    if b.rows == 1:
        return truth(_contains_all(a, b.items))
    pairs_a, pairs_b = _pairs(a, b)
    incomplete = _rows_with(b, pairs_b[1][~np.isin(pairs_b[0], pairs_a[0])])
    return truth(~(incomplete | any_item(b, is_null(b.items))))


def contained(guard: Guard, a: Arrays, b: Arrays) -> Values:
    """Return a <@ b."""
    return contains(guard, b, a)


def comparison(symbol: str) -> Callable[[Guard, Arrays, Arrays], Values]:
    """Return the kernel of = <> < <= > >=: item by item, then by length; NULL is greatest."""

    def kernel(guard: Guard, a: Arrays, b: Arrays) -> Values:
        return truth(np.asarray(COMPARISONS[symbol](_order(a, b), 0)))

    return kernel


def cardinality(guard: Guard, a: Arrays) -> Values:
    """Return the number of items."""
    return Values("int4", a.lengths().astype(np.int32))


def make_array(type_name: str, items: Sequence[Values], rows: int) -> Arrays:
    """Return ARRAY[items...] for each of ``rows`` rows; the items have one type."""
    if all(item.rows == 1 for item in items):
        rows = 1
    data = [np.broadcast_to(column, rows) for column in _columns(items)]
    flat = np.stack(data, axis=1).ravel()
    nulls = [np.broadcast_to(is_null(item), rows) for item in items]
    null = np.stack(nulls, axis=1).ravel()
    mask = null if null.any() else None
    values = Values(type_name, flat, mask)
    if items[0].words is not None:
        words = [word for item in items for word in item.vocabulary]
        merged = text(flat, words) if type_name == "text" else Values(type_name, flat, mask, words)
        values = replace(merged, null=mask)
    offsets = np.arange(rows + 1, dtype=np.int64) * len(items)
    return Arrays(array_of(type_name), values, offsets)


def _columns(items: Sequence[Values]) -> list[NDArray[Any]]:
    """Return each item's data; codes of texts are moved into the vocabularies in one row."""
    if items[0].words is None:
        return [item.data for item in items]
    columns, start = [], 0
    for item in items:
        columns.append(item.data + np.int32(start))
        start += len(item.vocabulary)
    return columns


def any_item(a: Arrays, found: Mask) -> Mask:
    """Return the rows of which an item is ``found`` (bool per item)."""
    found = np.broadcast_to(found, a.items.rows)
    # One more, so that the offset of an empty array at the end is inside.
    starts, padded = a.offsets[:-1], np.append(found, False)
    return np.logical_or.reduceat(padded, starts) & (a.offsets[1:] > starts)


def _rows_with(a: Arrays, owners: NDArray[np.int64]) -> Mask:
    found = np.zeros(a.rows, np.bool_)
    found[owners] = True
    return found


def _contains_all(a: Arrays, wanted: Values) -> Mask:
    """Return the rows that hold each of ``wanted``, by counting the distinct ones found."""
    if wanted.null is not None:
        return np.zeros(a.rows, np.bool_)
    x, y = comparable(a.items, wanted, ordered=False)
    y, present = np.unique(y), ~is_null(a.items)
    if len(y) <= _FEW_ITEMS:
        result = np.ones(a.rows, np.bool_)
        for value in y:
            result &= any_item(a, (x == value) & present)
        return result
    places = np.searchsorted(y, x).clip(max=len(y) - 1)
    found = (y[places] == x) & present
    pairs = np.unique(a.owners()[found] * len(y) + places[found])
    return np.asarray(np.bincount(pairs // len(y), minlength=a.rows) == len(y))


_Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def _pairs(a: Arrays, b: Arrays) -> tuple[_Pairs, _Pairs]:
    """Return for each side a number per (row, item) that is not NULL, and the row."""
    x, y = comparable(a.items, b.items, ordered=False)
    unique, places = np.unique(np.concatenate([x, y]), return_inverse=True)
    sides = []
    for side, inside in ((a, places[: len(x)]), (b, places[len(x) :])):
        present = ~is_null(side.items)
        owners = side.owners()[present]
        sides.append((owners * max(len(unique), 1) + inside[present], owners))
    return sides[0], sides[1]


def _order(a: Arrays, b: Arrays) -> NDArray[np.int8]:
    """Return -1, 0 or 1 per row: whether a is less than, equal to or greater than b."""
    lengths_a, lengths_b = np.broadcast_arrays(a.lengths(), b.lengths())
    order: NDArray[np.int8] = np.sign(lengths_a - lengths_b).astype(np.int8)
    counts = np.minimum(lengths_a, lengths_b)
    owners = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    items = _item_order(_items_at(a, owners, within), _items_at(b, owners, within))
    different = np.flatnonzero(items)
    rows, first = np.unique(owners[different], return_index=True)
    order[rows] = items[different[first]]
    return order


def _item_order(a: Values, b: Values) -> NDArray[np.int8]:
    null_a, null_b = is_null(a), is_null(b)
    known = ~null_a & ~null_b
    greater = (compare(">", a, b) & known) | (null_a & ~null_b)
    less = (compare("<", a, b) & known) | (~null_a & null_b)
    return np.subtract(greater, less, dtype=np.int8)


def _items_at(a: Arrays, owners: NDArray[np.int64], within: NDArray[np.int64]) -> Values:
    """Return the items at place ``within`` of the arrays of rows ``owners``."""
    starts = a.offsets[owners] if a.rows != 1 else a.offsets[0]
    places = starts + within
    null = None if a.items.null is None else a.items.null[places]
    return Values(a.items.type, a.items.data[places], null, a.items.words)
