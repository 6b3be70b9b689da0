"""Array kernels: && @> <@ = <> and ARRAY[...], on offsets and flattened items.

A NULL item overlaps nothing and is contained in nothing; two arrays are equal when they have
equal items, NULLs included (utils/adt/arrayfuncs.c).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compare import comparable, compare, is_member
from .guard import Guard
from .sqltypes import array_of
from .values import Arrays, Mask, Values, is_null, take, text, truth


def overlaps(guard: Guard, a: Arrays, b: Arrays) -> Values:
    """Return a && b."""
    if a.rows == 1 and b.rows != 1:
        return overlaps(guard, b, a)
    if b.rows != 1:
        pairs_a, pairs_b = _pairs(a, b)
        hits = np.isin(pairs_b[0], pairs_a[0])
        return truth(_rows_with(b, pairs_b[1][hits]))
    found = is_member(a.items, b.items) & ~is_null(a.items)
    return truth(_rows_with(a, a.owners()[found]))


def contains(guard: Guard, a: Arrays, b: Arrays) -> Values:
    """Return a @> b."""
    if a.rows == 1:
        missing = ~is_member(b.items, a.items) | is_null(b.items)
        return truth(~_rows_with(b, b.owners()[missing]))
    if b.rows == 1:
        return truth(_contains_all(a, b.items))
    pairs_a, pairs_b = _pairs(a, b)
    missing = ~np.isin(pairs_b[0], pairs_a[0])
    incomplete = _rows_with(b, pairs_b[1][missing])
    incomplete |= _rows_with(b, b.owners()[is_null(b.items)])
    return truth(~incomplete)


def contained(guard: Guard, a: Arrays, b: Arrays) -> Values:
    """Return a <@ b."""
    return contains(guard, b, a)


def equal(guard: Guard, a: Arrays, b: Arrays) -> Values:
    """Return a = b."""
    return truth(_equal(a, b))


def unequal(guard: Guard, a: Arrays, b: Arrays) -> Values:
    """Return a <> b."""
    return truth(~_equal(a, b))


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
    words = [word for item in items for word in item.vocabulary] if type_name == "text" else None
    values = Values(type_name, flat, mask)
    if words is not None:
        merged = text(flat, words)
        values = Values("text", merged.data, mask, merged.words)
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


def _rows_with(a: Arrays, owners: NDArray[np.int64]) -> Mask:
    found = np.zeros(a.rows, np.bool_)
    found[owners] = True
    return found


def _contains_all(a: Arrays, wanted: Values) -> Mask:
    """Return the rows that hold each of ``wanted``, by counting the distinct ones found."""
    if wanted.null is not None:
        return np.zeros(a.rows, np.bool_)
    x, y = comparable(a.items, wanted, ordered=False)
    y = np.unique(y)
    if len(y) == 0:
        return np.ones(a.rows, np.bool_)
    places = np.searchsorted(y, x).clip(max=len(y) - 1)
    found = (y[places] == x) & ~is_null(a.items)
    pairs = np.unique(a.owners()[found] * len(y) + places[found])
    counts = np.bincount(pairs // len(y), minlength=a.rows)
    return np.asarray(counts == len(y))


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


def _equal(a: Arrays, b: Arrays) -> Mask:
    lengths_a, lengths_b = a.lengths(), b.lengths()
    same: Mask = np.asarray(lengths_a == lengths_b)
    rows = np.flatnonzero(same)
    counts = np.broadcast_to(lengths_a, same.shape)[rows]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    left = _items_at(a, same.shape, rows, counts, within)
    right = _items_at(b, same.shape, rows, counts, within)
    null_a, null_b = is_null(left), is_null(right)
    match = (null_a & null_b) | (compare("=", left, right) & ~null_a & ~null_b)
    same[np.repeat(rows, counts)[~np.broadcast_to(match, within.shape)]] = False
    return same


def _items_at(
    a: Arrays,
    shape: tuple[int, ...],
    rows: NDArray[np.int64],
    counts: NDArray[np.int64],
    within: NDArray[np.int64],
) -> Values:
    """Return the items of ``rows``, each row's ``counts`` of them one after the other."""
    starts = np.broadcast_to(a.offsets[:-1], shape)[rows]
    places = np.repeat(starts, counts) + within
    return take(a.items, places) if a.items.rows != 1 else _repeat(a.items, len(places))


def _repeat(values: Values, count: int) -> Values:
    null = None if values.null is None else np.repeat(values.null, count)
    return Values(values.type, np.repeat(values.data, count), null, values.words)
