"""Choice of the lists nearest to a query: a cheap look at all, then exact constants of the best.

The look goes by tiles (tiles.py), of int8 where the data allow it (``prepared.py`` tries it out),
and among many lists by their sketches first (sketch.py). More lists than asked for are taken from
the cheap look, so that its rounding does not show.
"""

from __future__ import annotations

import numpy as np

from .jit import compiled
from .layout import (
    CENTROIDS_AT,
    COARSE_KIND,
    CORRECTIONS_AT,
    DIM,
    HALVES_AT,
    METRIC,
    MIDDLE_AT,
    NLIST,
    PADDED_LISTS,
    SCALES_AT,
    TILES_AT,
)
from .query_bytes import padded
from .rerank import dots_float, squares_float
from .selection import keep_below, shrink, sort_first, threshold
from .simd import hold, peek_f32, peek_i32, peek_i64, poke_f32, poke_i32
from .sketch import byte_constants, kept_by_sketch, score_sketches
from .tiles import TOGETHER, score_bytes, score_floats


@compiled
def _score_lists(codec: int, queries: int, n: int, out: int) -> None:
    """Write the scores of all lists f32[4, padded L] for 1 to 4 queries f32[n, D]."""
    dim, lists = peek_i64(codec + 8 * DIM), peek_i64(codec + 8 * PADDED_LISTS)
    tiles, halves = peek_i64(codec + 8 * TILES_AT), peek_i64(codec + 8 * HALVES_AT)
    if peek_i64(codec + 8 * COARSE_KIND):
        scales = peek_i64(codec + 8 * SCALES_AT)
        rounded = (tiles, halves, scales, peek_i64(codec + 8 * CORRECTIONS_AT))
        middle = peek_i64(codec + 8 * MIDDLE_AT)
        score_bytes(rounded, lists >> 6, middle, dim, queries, 4 * dim, out, 4 * lists, n)
        return
    score_floats(tiles, halves, lists >> 6, dim, queries, 4 * dim, out, 4 * lists, n)


@compiled
def _candidates(codec: int, scores: int, wanted: int, slack: int, found: int, numbers: int) -> int:
    """Write the ``wanted``..``wanted + slack`` lists of smallest score; return how many."""
    lists = peek_i64(codec + 8 * NLIST)
    n = 0
    if wanted < lists:
        n16 = peek_i64(codec + 8 * PADDED_LISTS) >> 4
        limit = threshold(scores, 16 * n16, wanted, wanted)
        n = keep_below(scores, 0, n16, limit, found, numbers)
        n, _ = shrink(found, numbers, n, wanted, slack)
    if n < wanted:  # All are wanted, or scores overflowed.
        n = lists
        for i in range(lists):
            poke_i32(numbers + 4 * i, i)
    return n


@compiled
def _exact_constants(codec: int, query: int, room: int, n: int, values: int, numbers: int) -> None:
    """Write B of n lists for a placed query f32[D]; ``room``: f32[D padded to 16], zeros."""
    dim = peek_i64(codec + 8 * DIM)
    centroids, is_ip = peek_i64(codec + 8 * CENTROIDS_AT), peek_i64(codec + 8 * METRIC) == 2
    width = padded(dim)
    for t in range(dim):
        poke_f32(room + 4 * t, peek_f32(query + 4 * t))
    for t in range(n):
        centroid = centroids + 4 * width * peek_i32(numbers + 4 * t)
        if is_ip:
            poke_f32(values + 4 * t, -dots_float(centroid, room, width >> 4)[0])
        else:
            square = squares_float(centroid, room, width >> 4)
            poke_f32(values + 4 * t, square * np.float32(0.5))


@compiled
def _from_sketches(
    codec: int, query: int, scores: int, kept: int, wanted: int, slack: int, out: tuple[int, int]
) -> int:
    """Write the wanted..wanted + slack best lists of one query, by its scores of sketches.

    ``out``: addresses of values and numbers. Return how many, or 0 where sketches do not tell.
    """
    values, numbers = out
    found = _candidates(codec, scores, kept, kept >> 3, values, numbers)
    if found > 2 * kept:
        return 0
    if peek_i64(codec + 8 * COARSE_KIND):
        byte_constants(codec, query, found, values, numbers)
    else:
        room = np.zeros(padded(peek_i64(codec + 8 * DIM)), np.float32)
        _exact_constants(codec, query, room.ctypes.data, found, values, numbers)
        hold(room)
    found, _ = shrink(values, numbers, found, wanted, slack)
    return found


@compiled
def _choose(
    codec: int,
    queries: int,
    n: int,
    nprobe: int,
    ordered: int,
    rough: bool,
    numbers: int,
    constants: int,
) -> None:
    """Write the lists nearest to f32[n, D] and their constants, see ``choose``."""
    dim, lists = peek_i64(codec + 8 * DIM), peek_i64(codec + 8 * PADDED_LISTS)
    scores = np.empty((min(n, TOGETHER), lists), np.float32)
    best, chosen = np.empty(lists + 32, np.float32), np.empty(lists + 32, np.int32)
    room = np.zeros(padded(dim), np.float32)
    values, ids = best.ctypes.data, chosen.ctypes.data
    as_is = (
        rough and peek_i64(codec + 8 * COARSE_KIND) == 2 and nprobe < peek_i64(codec + 8 * NLIST)
    )
    wanted = nprobe if as_is else nprobe + (nprobe >> 3) + 4
    slack = 0 if as_is else wanted >> 3
    kept = kept_by_sketch(codec, wanted)
    for first in range(0, n, TOGETHER):
        size = min(TOGETHER, n - first)
        if kept:
            score_sketches(codec, queries + 4 * dim * first, size, scores.ctypes.data)
        elif wanted < peek_i64(codec + 8 * NLIST):
            _score_lists(codec, queries + 4 * dim * first, size, scores.ctypes.data)
        for i in range(first, first + size):
            query, row = queries + 4 * dim * i, scores.ctypes.data + 4 * lists * (i - first)
            found = 0
            if kept:
                found = _from_sketches(codec, query, row, kept, wanted, slack, (values, ids))
                if found == 0:
                    _score_lists(codec, query, 1, row)
            if found == 0:
                found = _candidates(codec, row, wanted, slack, values, ids)
            if not as_is or found != nprobe:
                _exact_constants(codec, query, room.ctypes.data, found, values, ids)
                if found > nprobe:
                    found, _ = shrink(values, ids, found, nprobe, 0)
            sort_first(values, ids, found, ordered)
            for t in range(nprobe):
                poke_i32(numbers + 4 * (nprobe * i + t), peek_i32(ids + 4 * t))
                poke_f32(constants + 4 * (nprobe * i + t), peek_f32(values + 4 * t))
    hold(scores, best, chosen, room)


@compiled
def choose(
    codec: int, queries: int, n: int, nprobe: int, ordered: int, numbers: int, constants: int
) -> None:
    """Write the lists i32[n, p] nearest to f32[n, D] and their constants B f32[n, p], p <= L.

    The first ``ordered`` of them are in order.
    """
    _choose(codec, queries, n, nprobe, ordered, False, numbers, constants)


@compiled
def choose_roughly(
    codec: int, queries: int, n: int, nprobe: int, ordered: int, numbers: int, constants: int
) -> None:
    """Do the same, B less a number of the query, rounded where that does not show."""
    _choose(codec, queries, n, nprobe, ordered, True, numbers, constants)
