"""Distances from raw rows, float32 or float16, in pgvector's terms.

Candidates are ranked by float32 sums; the few best get their distances in float64, rounded once, as
metrics.py defines them. Where float32 squares overflow or vanish all are computed in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils

from .jit import Float, compiled, emitted
from .layout import CHUNKS_AT, IS_HALF, RAW_BYTES, RAW_DIM, RAW_METRIC, SHIFT
from .selection import shrink, sort
from .simd import (
    V8D,
    V16F,
    accumulator,
    folded,
    load,
    load_halves,
    moved,
    multiply_add,
    peek_f32,
    peek_i32,
    peek_i64,
    peek_u16,
    poke_f32,
    poke_i64,
    poke_u16,
    prefetch,
    shuffled,
)

#: Rows asked for ahead of the one being compared, into the second-level cache, because the first
#: has room for few requests: 26 rows of 768 bytes took 4.6 us, 16 ahead into the first 8.2.
AHEAD = 64
#: Bytes of a row asked for ahead; the machine goes on by itself in longer ones.
AHEAD_BYTES = 1024
#: Squares outside have lost digits.
SMALLEST_SAFE, LARGEST_SAFE = 1e-30, 1e30


def _add(b: Any, x: Any, y: Any) -> Any:
    return b.fadd(x, y)


def _load_row(b: Any, at: Any, index: Any, half: bool) -> Any:
    if half:
        return load_halves(b, moved(b, at, index, 32))
    return load(b, moved(b, at, index, 64), V16F)


def _squares(half: bool) -> Any:
    """Return sum (x - q)^2 over 16 n components, in float32."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        row, query, n16 = args
        total = accumulator(b, V16F)
        with cgutils.for_range(b, n16) as loop:
            x = _load_row(b, row, loop.index, half)
            off = b.fsub(x, load(b, moved(b, query, loop.index, 64), V16F))
            b.store(multiply_add(b, off, off, b.load(total)), total)
        return folded(b, b.load(total), _add)

    return types.float32(types.intp, types.intp, types.intp), emit


def _dots(half: bool) -> Any:
    """Return x.q and x.x over 16 n components, in float32."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        row, query, n16 = args
        product, square = accumulator(b, V16F), accumulator(b, V16F)
        with cgutils.for_range(b, n16) as loop:
            x = _load_row(b, row, loop.index, half)
            y = load(b, moved(b, query, loop.index, 64), V16F)
            b.store(multiply_add(b, x, y, b.load(product)), product)
            b.store(multiply_add(b, x, x, b.load(square)), square)
        both = [folded(b, b.load(total), _add) for total in (product, square)]
        return context.make_tuple(b, signature.return_type, both)

    arguments = [types.intp] * 3
    return types.UniTuple(types.float32, 2)(*arguments), emit


def _sums(half: bool) -> Any:
    """Return sum (x - q)^2, x.q and x.x over 16 n components, in float64."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        row, query, n16 = args
        totals = [accumulator(b, V8D) for _ in range(3)]
        with cgutils.for_range(b, n16) as loop:
            both = (
                _load_row(b, row, loop.index, half),
                load(b, moved(b, query, loop.index, 64), V16F),
            )
            for part in range(2):
                lanes = list(range(8 * part, 8 * part + 8))
                x, y = (b.fpext(shuffled(b, v, v, lanes), V8D) for v in both)
                off = b.fsub(x, y)
                for total, (one, two) in zip(totals, ((off, off), (x, y), (x, x)), strict=True):
                    b.store(multiply_add(b, one, two, b.load(total)), total)
        values = [folded(b, b.load(total), _add) for total in totals]
        return context.make_tuple(b, signature.return_type, values)

    arguments = [types.intp] * 3
    return types.UniTuple(types.float64, 3)(*arguments), emit


@emitted
def squares_float(typing: Any, row: Any, query: Any, n16: Any) -> Any:
    """Compare a float32 row."""
    return _squares(half=False)


@emitted
def squares_half(typing: Any, row: Any, query: Any, n16: Any) -> Any:
    """Compare a float16 row."""
    return _squares(half=True)


@emitted
def dots_float(typing: Any, row: Any, query: Any, n16: Any) -> Any:
    """Multiply a float32 row."""
    return _dots(half=False)


@emitted
def _dots_half(typing: Any, row: Any, query: Any, n16: Any) -> Any:
    """Multiply a float16 row."""
    return _dots(half=True)


@emitted
def _sums_float(typing: Any, row: Any, query: Any, n16: Any) -> Any:
    """Take all sums of a float32 row."""
    return _sums(half=False)


@emitted
def _sums_half(typing: Any, row: Any, query: Any, n16: Any) -> Any:
    """Take all sums of a float16 row."""
    return _sums(half=True)


@compiled
def row_at(rows: int, row_id: int) -> int:
    """Return the address of a raw row."""
    shift = peek_i64(rows + 8 * SHIFT)
    chunk = peek_i64(peek_i64(rows + 8 * CHUNKS_AT) + 8 * (row_id >> shift))
    return chunk + (row_id & ((1 << shift) - 1)) * peek_i64(rows + 8 * RAW_BYTES)


@compiled
def _fetch(rows: int, row_id: int) -> None:
    at = row_at(rows, row_id)
    for offset in range(0, min(peek_i64(rows + 8 * RAW_BYTES), AHEAD_BYTES), 64):
        prefetch(at + offset)


@compiled
def room_for_query(dim: int) -> int:
    """Return the float32 places that ``load_query`` fills: the query, and the end of a row."""
    return ((dim + 15) & -16) + 16


@compiled
def load_query(rows: int, query: int, room: int) -> None:
    """Copy a query f32[d] to ``room``, zero padded, and clear the place for a row's end."""
    dim = peek_i64(rows + 8 * RAW_DIM)
    for i in range(dim):
        poke_f32(room + 4 * i, peek_f32(query + 4 * i))
    for i in range(dim, room_for_query(dim)):
        poke_f32(room + 4 * i, np.float32(0))


@compiled
def _load_end(at: int, is_half: int, dim: int, end: int) -> None:
    """Copy the last dim % 16 components of a row to the cleared place ``end``."""
    first = dim & -16
    for i in range(first, dim):
        if is_half:
            poke_u16(end + 2 * (i - first), peek_u16(at + 2 * i))
        else:
            poke_f32(end + 4 * (i - first), peek_f32(at + 4 * i))


@compiled
def _ranking_value(rows: int, at: int, room: int) -> Float:
    """Return a float32 that orders rows as their distances do, NaN where it cannot tell."""
    dim, is_half = peek_i64(rows + 8 * RAW_DIM), peek_i64(rows + 8 * IS_HALF)
    metric = peek_i64(rows + 8 * RAW_METRIC)
    n16, last = dim >> 4, room + 4 * (dim & -16)
    end = room + 4 * (room_for_query(dim) - 16)
    if dim & 15:
        _load_end(at, is_half, dim, end)
    if metric == 0:
        value = squares_half(at, room, n16) if is_half else squares_float(at, room, n16)
        if dim & 15:
            value += squares_half(end, last, 1) if is_half else squares_float(end, last, 1)
        safe = SMALLEST_SAFE < value < LARGEST_SAFE
        return value if safe else np.float32(np.nan)
    product, square = _dots_half(at, room, n16) if is_half else dots_float(at, room, n16)
    if dim & 15:
        more = _dots_half(end, last, 1) if is_half else dots_float(end, last, 1)
        product += more[0]
        square += more[1]
    if not (SMALLEST_SAFE < square < LARGEST_SAFE and abs(product) < LARGEST_SAFE):
        return np.float32(np.nan)
    return -product if metric == 2 else -product / np.sqrt(square)


@compiled
def distance(rows: int, row_id: int, room: int, query_square: Float) -> Float:
    """Return the exact distance of a row to the query in ``room``, float32.

    ``query_square``: |q|^2 in float64, looked at under cosine only.
    """
    dim, is_half = peek_i64(rows + 8 * RAW_DIM), peek_i64(rows + 8 * IS_HALF)
    metric, at = peek_i64(rows + 8 * RAW_METRIC), row_at(rows, row_id)
    n16, last = dim >> 4, room + 4 * (dim & -16)
    off, product, square = _sums_half(at, room, n16) if is_half else _sums_float(at, room, n16)
    if dim & 15:
        end = room + 4 * (room_for_query(dim) - 16)
        _load_end(at, is_half, dim, end)
        more = _sums_half(end, last, 1) if is_half else _sums_float(end, last, 1)
        off, product, square = off + more[0], product + more[1], square + more[2]
    if metric == 0:
        return np.float32(np.sqrt(off))
    if metric == 2:
        return np.float32(0.0 - product)
    cosine = product / (np.sqrt(square) * np.sqrt(query_square))
    if np.isnan(cosine):
        return np.float32(np.nan)
    return np.float32(1.0 - min(max(cosine, -1.0), 1.0))


@compiled
def square_of(query: int, dim: int) -> Float:
    """Return |q|^2 of f32[d] in float64."""
    _, _, total = _sums_float(query, query, dim >> 4)
    for i in range(dim & -16, dim):
        total += np.float64(peek_f32(query + 4 * i)) ** 2
    return total


@compiled
def _rank(rows: int, room: int, values: int, ids: int, n: int) -> bool:
    """Replace the scores of n candidates by ranking values; say whether all of them can tell."""
    safe = True
    for i in range(min(n, AHEAD)):
        _fetch(rows, peek_i32(ids + 4 * i))
    for i in range(n):
        if i + AHEAD < n:
            _fetch(rows, peek_i32(ids + 4 * (i + AHEAD)))
        value = _ranking_value(rows, row_at(rows, peek_i32(ids + 4 * i)), room)
        safe &= not np.isnan(value)
        poke_f32(values + 4 * i, value)
    return safe


@compiled
def nearest_of(
    rows: int, query: int, room: int, values: int, ids: int, n: int, k: int, out: int, far: int
) -> bool:
    """Write ids i64[k] and distances f32[k] of the nearest of n candidates; -1, +inf for none.

    False: a distance is NaN, and the order is not to be trusted.

    ``values`` and ``ids`` are buffers with room for 16 more; their content is used up. ``room``
    has ``room_for_query`` places.
    """
    load_query(rows, query, room)
    query_square = square_of(query, peek_i64(rows + 8 * RAW_DIM))
    if _rank(rows, room, values, ids, n):
        n, _ = shrink(values, ids, n, k + (k >> 3) + 4, 0)
    told = True
    for i in range(n):
        value = distance(rows, peek_i32(ids + 4 * i), room, query_square)
        told &= not np.isnan(value)
        poke_f32(values + 4 * i, value)
    sort(values, ids, n)
    for i in range(k):
        poke_i64(out + 8 * i, peek_i32(ids + 4 * i) if i < n else -1)
        poke_f32(far + 4 * i, peek_f32(values + 4 * i) if i < n else np.float32(np.inf))
    return told
