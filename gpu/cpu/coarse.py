"""Choice of the lists nearest to a query: a cheap look at all, then exact constants of the best.

Centroids lie in tiles of 64 so that a query component meets 64 of them in four instructions and
nothing is summed across lanes. Where the data allow it (``prepared.py`` tries it out) tiles are
int8: four components in one instruction, a quarter of the bytes. More lists than asked for are
taken from the cheap look, so that its rounding does not show.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils

from .features import FLAVOUR
from .jit import Float, compiled, emitted
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
from .rerank import dots_float, squares_float
from .scan_avx512 import dot_bytes
from .selection import keep_below, shrink, sort_first, threshold
from .simd import (
    F32,
    I32,
    V16B,
    V16F,
    V16I,
    V64B,
    accumulator,
    broadcast,
    folded,
    hold,
    larger,
    load,
    moved,
    multiply_add,
    number,
    peek_f32,
    peek_i32,
    peek_i64,
    poke_f32,
    poke_i32,
    poke_u8,
    splat,
    store,
)

#: Queries that share one pass over the centroids.
TOGETHER = 4


def _float_tiles(queries: int) -> Any:
    """Write scores |c|^2 / 2 - q.c (or -q.c) of all centroids for 1 or 4 queries."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        tiles, halves, n_tiles, dim, asked, asked_step, out, out_step = args
        totals = [[cgutils.alloca_once(b, V16F) for _ in range(4)] for _ in range(queries)]
        with cgutils.for_range(b, n_tiles) as loop:
            first = moved(b, halves, loop.index, 256)
            tile = b.add(tiles, b.mul(loop.index, b.mul(dim, number(256))))
            for part in range(4):
                half = load(b, b.add(first, number(64 * part)), V16F)
                for query in range(queries):
                    b.store(half, totals[query][part])
            with cgutils.for_range(b, dim) as inner:
                at = moved(b, tile, inner.index, 256)
                words = [load(b, b.add(at, number(64 * part)), V16F) for part in range(4)]
                for query in range(queries):
                    row = b.add(asked, b.mul(asked_step, number(query)))
                    x = load(b, moved(b, row, inner.index, 4), F32)
                    minus = b.fneg(broadcast(b, x, V16F))
                    for part, word in enumerate(words):
                        total = totals[query][part]
                        b.store(multiply_add(b, minus, word, b.load(total)), total)
            for query in range(queries):
                row = moved(b, b.add(out, b.mul(out_step, number(query))), loop.index, 256)
                for part in range(4):
                    store(b, b.load(totals[query][part]), b.add(row, number(64 * part)))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 8), emit


def _byte_tiles(queries: int) -> Any:
    """Do what ``_float_tiles`` does with bytes: the query's are unsigned, see ``_query_bytes``."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        tiles, halves, scales, corrections, n_tiles, fours, asked, asked_step, steps, out = args[
            :10
        ]
        out_step = args[10]
        totals = [[cgutils.alloca_once(b, V16I) for _ in range(4)] for _ in range(queries)]
        with cgutils.for_range(b, n_tiles) as loop:
            line = b.mul(loop.index, number(256))
            tile = b.add(tiles, b.mul(loop.index, b.mul(fours, number(256))))
            for part in range(4):
                at = b.add(b.add(corrections, line), number(64 * part))
                start = load(b, at, V16I)
                for query in range(queries):
                    b.store(start, totals[query][part])
            with cgutils.for_range(b, fours) as inner:
                at = moved(b, tile, inner.index, 256)
                words = [load(b, b.add(at, number(64 * part)), V64B) for part in range(4)]
                for query in range(queries):
                    row = b.add(asked, b.mul(asked_step, number(query)))
                    four = load(b, moved(b, row, inner.index, 4), I32)
                    x = b.bitcast(broadcast(b, four, V16I), V64B)
                    for part, word in enumerate(words):
                        total = totals[query][part]
                        b.store(dot_bytes(b, b.load(total), x, word), total)
            for part in range(4):
                place = b.add(line, number(64 * part))
                half = load(b, b.add(halves, place), V16F)
                scale = load(b, b.add(scales, place), V16F)
                for query in range(queries):
                    step = broadcast(b, load(b, b.add(steps, number(4 * query)), F32), V16F)
                    product = b.sitofp(b.load(totals[query][part]), V16F)
                    score = multiply_add(b, product, b.fmul(scale, step), half)
                    row = b.add(out, b.mul(out_step, number(query)))
                    store(b, score, b.add(row, place))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 11), emit


@emitted
def _floats_1(typing: Any, t: Any, h: Any, n: Any, d: Any, q: Any, qs: Any, o: Any, os: Any) -> Any:
    """Score for one query."""
    return _float_tiles(1)


@emitted
def _floats_4(typing: Any, t: Any, h: Any, n: Any, d: Any, q: Any, qs: Any, o: Any, os: Any) -> Any:
    """Score for four queries."""
    return _float_tiles(4)


@emitted
def _bytes_1(
    typing: Any,
    t: Any,
    h: Any,
    s: Any,
    c: Any,
    n: Any,
    d: Any,
    q: Any,
    qs: Any,
    st: Any,
    o: Any,
    os: Any,
) -> Any:
    """Score for one query."""
    return _byte_tiles(1)


@emitted
def _bytes_4(
    typing: Any,
    t: Any,
    h: Any,
    s: Any,
    c: Any,
    n: Any,
    d: Any,
    q: Any,
    qs: Any,
    st: Any,
    o: Any,
    os: Any,
) -> Any:
    """Score for four queries."""
    return _byte_tiles(4)


@compiled
def padded(dim: int) -> int:
    """Return ``dim`` rounded up to 16."""
    return (dim + 15) & -16


@emitted
def _largest_off(typing: Any, query: Any, middle: Any, n16: Any) -> Any:
    """Return the largest of |query - middle| over 16 n components."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        query, middle, n16 = args
        largest = accumulator(b, V16F)
        with cgutils.for_range(b, n16) as loop:
            x = load(b, moved(b, query, loop.index, 64), V16F)
            off = b.fsub(x, load(b, moved(b, middle, loop.index, 64), V16F))
            b.store(larger(b, larger(b, off, b.fneg(off)), b.load(largest)), largest)
        return folded(b, b.load(largest), larger)

    return types.float32(*[types.intp] * 3), emit


@emitted
def _bytes_of(typing: Any, query: Any, middle: Any, n16: Any, scale: Any, out: Any) -> Any:
    """Write (query - middle) * scale + 128 as bytes, rounded."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        query, middle, n16, scale, out = args
        scale = broadcast(b, scale, V16F)
        with cgutils.for_range(b, n16) as loop:
            x = load(b, moved(b, query, loop.index, 64), V16F)
            off = b.fsub(x, load(b, moved(b, middle, loop.index, 64), V16F))
            number = b.fptosi(multiply_add(b, off, scale, splat(V16F, 128.5)), V16I)
            store(b, b.trunc(number, V16B), moved(b, out, loop.index, 16))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3, types.float32, types.intp), emit


@compiled
def _query_bytes(query: int, middle: int, dim: int, out: int) -> Float:
    """Write a query as bytes, (component - middle) / step + 128; return minus the step."""
    whole = dim & -16
    largest = max(np.float32(1e-20), _largest_off(query, middle, whole >> 4))
    for i in range(whole, dim):
        largest = max(largest, abs(peek_f32(query + 4 * i) - peek_f32(middle + 4 * i)))
    scale = np.float32(127) / largest
    _bytes_of(query, middle, whole >> 4, scale, out)
    for i in range(whole, dim):
        x = peek_f32(query + 4 * i) - peek_f32(middle + 4 * i)
        poke_u8(out + i, np.int64(x * scale + np.float32(128.5)))
    for i in range(dim, padded(dim)):
        poke_u8(out + i, 128)
    return -largest / np.float32(127)


if FLAVOUR == "avx512":

    @compiled
    def score_bytes(
        tiles: tuple[int, int, int, int],
        n_tiles: int,
        middle: int,
        dim: int,
        queries: int,
        query_step: int,
        out: int,
        out_step: int,
        n: int,
    ) -> None:
        """Do what ``score_floats`` does by int8 ``tiles``: theirs, starts, steps, corrections."""
        at, starts, scales, corrections = tiles
        line = padded(dim)
        asked = np.empty((TOGETHER, line), np.uint8)
        steps = np.zeros(TOGETHER, np.float32)
        to, fours, step_at = asked.ctypes.data, (dim + 3) >> 2, steps.ctypes.data
        for i in range(n):
            steps[i] = _query_bytes(queries + query_step * i, middle, dim, to + line * i)
        if n == 1:
            _bytes_1(
                at, starts, scales, corrections, n_tiles, fours, to, line, step_at, out, out_step
            )
        else:
            _bytes_4(
                at, starts, scales, corrections, n_tiles, fours, to, line, step_at, out, out_step
            )
        hold(asked, steps)

else:

    @compiled
    def score_bytes(
        tiles: tuple[int, int, int, int],
        n_tiles: int,
        middle: int,
        dim: int,
        queries: int,
        query_step: int,
        out: int,
        out_step: int,
        n: int,
    ) -> None:
        """Stand where there are no int8 tiles."""


@compiled
def score_floats(
    tiles: int,
    starts: int,
    n_tiles: int,
    dim: int,
    queries: int,
    query_step: int,
    out: int,
    out_step: int,
    n: int,
) -> None:
    """Write starts - products with all vectors of float32 tiles, for 1 to 4 queries."""
    if n == TOGETHER:
        _floats_4(tiles, starts, n_tiles, dim, queries, query_step, out, out_step)
        return
    for i in range(n):
        query, to = queries + query_step * i, out + out_step * i
        _floats_1(tiles, starts, n_tiles, dim, query, query_step, to, out_step)


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
    scores = np.empty((TOGETHER, lists), np.float32)
    best, chosen = np.empty(lists + 32, np.float32), np.empty(lists + 32, np.int32)
    room = np.zeros(padded(dim), np.float32)
    values, ids = best.ctypes.data, chosen.ctypes.data
    as_is = (
        rough and peek_i64(codec + 8 * COARSE_KIND) == 2 and nprobe < peek_i64(codec + 8 * NLIST)
    )
    wanted = nprobe if as_is else nprobe + (nprobe >> 3) + 4
    slack = 0 if as_is else wanted >> 3
    for first in range(0, n, TOGETHER):
        size = min(TOGETHER, n - first)
        if wanted < peek_i64(codec + 8 * NLIST):
            _score_lists(codec, queries + 4 * dim * first, size, scores.ctypes.data)
        for i in range(first, first + size):
            row = scores.ctypes.data + 4 * lists * (i - first)
            found = _candidates(codec, row, wanted, slack, values, ids)
            if not as_is or found != nprobe:
                query = queries + 4 * dim * i
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
