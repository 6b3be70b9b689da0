"""Nearest centroids of many points: int8 tiles rule nearly all out, float32 decides among the rest.

A score by int8 tiles is off by less than 2 (step of the point) |c| + 2 (step of the centroid) |p|:
seven standard deviations of a sum of evenly spread roundings, each. Lists whose score less that
much is below every list's score plus that much are compared in float32: one or two of 2,048. All
scores of a point lie in the cache; no matrix of points by lists is written. AVX-512 only: elsewhere
a product of matrices is faster.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils

from gpu.arrays import F32, F64, I32, I64, AnyArray
from gpu.codec import half_squares

from .jit import compiled, emitted
from .memory import address, aligned
from .query_bytes import padded
from .rerank import squares_float
from .rounded import TILE, Rounded
from .selection import BIG, keep_below
from .simd import (
    V16F,
    accumulator,
    broadcast,
    folded,
    hold,
    larger,
    load,
    moved,
    multiply_add,
    peek_f32,
    peek_i32,
    poke_f32,
    poke_i32,
    smaller,
    store,
)
from .tiles import score_bytes

#: Points whose scores lie in the cache together, and those that one pass over a tile serves.
GROUP, TOGETHER = 32, 4
#: Bytes of tiles that a group looks at before it goes on: half of a second-level cache.
PASS_BYTES = 1 << 19


class Places(NamedTuple):
    """Addresses that the kernel reads; L lists padded to tiles, D dims padded to 16."""

    tiles: int
    starts: int
    steps: int
    corrections: int
    lengths: int
    middle: int
    centroids: int
    lists: int


class Centroids:
    """Centroids f32[L, d] made ready for ``assign``."""

    def __init__(self, centroids: F32) -> None:
        lists, dim = centroids.shape
        middle = centroids.mean(axis=0, dtype=np.float64).astype(np.float32)
        rounded = Rounded.of(centroids, middle)
        off = half_squares(centroids - middle)
        ends = ((0, -lists % TILE),)
        self._kept: list[AnyArray] = [
            aligned(rounded.tiles()),
            aligned(np.pad(off, ends, constant_values=np.float32(BIG))),
            aligned(rounded.padded_steps()),
            aligned(rounded.corrections()),
            aligned(np.pad(np.sqrt(2 * off), ends)),
            aligned(np.pad(middle, (0, -dim % 16))),
            aligned(np.pad(centroids, ((0, 0), (0, -dim % 16)))),
        ]
        places = list(map(address, self._kept))
        self.places = Places._make([*places, lists])


@emitted
def _reach(typing: Any, point: Any, middle: Any, n16: Any) -> Any:
    """Return the largest |x| and the sum of x^2 of point - middle, 16 n components."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        largest, square = accumulator(b, V16F), accumulator(b, V16F)
        with cgutils.for_range(b, args[2]) as loop:
            x = b.fsub(*(load(b, moved(b, at, loop.index, 64), V16F) for at in args[:2]))
            b.store(larger(b, larger(b, x, b.fneg(x)), b.load(largest)), largest)
            b.store(multiply_add(b, x, x, b.load(square)), square)
        total = folded(b, b.load(square), lambda b, x, y: b.fadd(x, y))
        both = [folded(b, b.load(largest), larger), total]
        return context.make_tuple(b, signature.return_type, both)

    return types.UniTuple(types.float32, 2)(*[types.intp] * 3), emit


@emitted
def _lower(
    typing: Any, scores: Any, lengths: Any, steps: Any, n16: Any, step: Any, length: Any
) -> Any:
    """Lower each score by how far it may be off; return the smallest of those raised by as much."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        scores, lengths, steps, n16 = args[:4]
        step, length = (broadcast(b, value, V16F) for value in args[4:])
        least = accumulator(b, V16F, BIG)
        with cgutils.for_range(b, n16) as loop:
            at = moved(b, scores, loop.index, 64)
            x, long, coarse = (
                load(b, moved(b, place, loop.index, 64), V16F) for place in (scores, lengths, steps)
            )
            off = multiply_add(b, long, step, b.fmul(coarse, length))
            store(b, b.fsub(x, off), at)
            b.store(smaller(b, b.fadd(x, off), b.load(least)), least)
        return folded(b, b.load(least), smaller)

    return types.float32(*[types.intp] * 4, *[types.float32] * 2), emit


@compiled
def _score_group(places: Places, dim: int, points: int, n: int, out: int) -> None:
    """Write the rough scores f32[n, padded L] of n points, tile by tile."""
    lists = (places.lists + 63) & -64
    tile_bytes = 256 * ((dim + 3) >> 2)
    step = max(1, PASS_BYTES // tile_bytes)
    for first in range(0, lists >> 6, step):
        size = min(step, (lists >> 6) - first)
        tiles = (
            places.tiles + tile_bytes * first,
            places.starts + 256 * first,
            places.steps + 256 * first,
            places.corrections + 256 * first,
        )
        for i in range(0, n, TOGETHER):
            at, to = points + 4 * dim * i, out + 4 * (lists * i + 64 * first)
            few = min(TOGETHER, n - i)
            score_bytes(tiles, size, places.middle, dim, at, 4 * dim, to, 4 * lists, few)


@compiled
def _nearest(places: Places, room: int, scores: int, n16: int, kept: int, numbers: int) -> int:
    """Leave the list of smallest square for the point in ``room`` in ``numbers``, and the square.

    ``scores`` f32[padded L] are used up. Equally near: the smaller number.
    """
    lists = (places.lists + 63) & -64
    largest, square = _reach(room, places.middle, n16)
    step, length = largest * np.float32(2 / 127), np.float32(2) * np.sqrt(square)
    limit = _lower(scores, places.lengths, places.steps, lists >> 4, step, length)
    limit += abs(limit) * np.float32(1e-5) + np.float32(1e-30)
    found = keep_below(scores, 0, lists >> 4, limit, kept, numbers)
    every = found == 0  # Overflow: nothing is known.
    best, best_square = 0, np.float32(np.inf)
    for i in range(places.lists if every else found):
        number = i if every else peek_i32(numbers + 4 * i)
        if number < places.lists:
            square = squares_float(places.centroids + 64 * n16 * number, room, n16)
            if square < best_square:
                best, best_square = number, square
    poke_f32(kept, best_square)
    return best


@compiled
def assign(places: Places, dim: int, points: int, n: int, list_ids: int, halves: int) -> None:
    """Write the nearest list i32[n] of points f32[n, d] and half the squared distance f32[n]."""
    lists, line = (places.lists + 63) & -64, padded(dim)
    scores = np.empty((GROUP, lists), np.float32)
    kept, numbers = np.empty(lists + 16, np.float32), np.empty(lists + 16, np.int32)
    room = np.zeros(line, np.float32)
    for first in range(0, n, GROUP):
        size = min(GROUP, n - first)
        _score_group(places, dim, points + 4 * dim * first, size, scores.ctypes.data)
        for i in range(size):
            point = points + 4 * dim * (first + i)
            for t in range(dim):
                room[t] = peek_f32(point + 4 * t)
            row = scores.ctypes.data + 4 * lists * i
            at, names = kept.ctypes.data, numbers.ctypes.data
            best = _nearest(places, room.ctypes.data, row, line >> 4, at, names)
            poke_i32(list_ids + 4 * (first + i), best)
            poke_f32(halves + 4 * (first + i), kept[0] * np.float32(0.5))
    hold(scores, kept, numbers, room)


@compiled
def add_by_list(points: F32, list_ids: I32, first: int, stop: int, sums: F64, counts: I64) -> None:
    """Add the points f32[n, d] of lists [first, stop) to their sums f64[L, d] and counts i64[L].

    In the order of the points, whatever the lists of one call: any cut gives the same sums.
    """
    for i in range(len(points)):
        number = list_ids[i]
        if first <= number < stop:
            counts[number] += 1
            for t in range(points.shape[1]):
                sums[number, t] += points[i, t]
