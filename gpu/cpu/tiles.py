"""Products of queries with many vectors at once, which lie in tiles of 64.

A query component meets the 64 in four instructions, and nothing is summed across lanes. Tiles are
float32, or int8: four components in one instruction, a quarter of the bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils

from .features import FLAVOUR
from .jit import compiled, emitted
from .query_bytes import padded, query_bytes
from .scan_avx512 import dot_bytes
from .simd import (
    F32,
    I32,
    V16F,
    V16I,
    V64B,
    broadcast,
    hold,
    load,
    moved,
    multiply_add,
    number,
    store,
)

#: Queries that share one pass over the tiles.
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
    """Do what ``_float_tiles`` does with bytes: the query's are unsigned, see query_bytes.py."""

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
        """Do what ``score_floats`` does by int8 ``tiles``: theirs, starts, steps, corrections.

        Nothing is written beyond the ``n`` rows of ``out``.
        """
        at, starts, scales, corrections = tiles
        line = padded(dim)
        asked = np.empty((TOGETHER, line), np.uint8)
        steps = np.zeros(TOGETHER, np.float32)
        to, fours, step_at = asked.ctypes.data, (dim + 3) >> 2, steps.ctypes.data
        for i in range(n):
            steps[i] = query_bytes(queries + query_step * i, middle, dim, to + line * i)
        if n == TOGETHER:
            _bytes_4(
                at, starts, scales, corrections, n_tiles, fours, to, line, step_at, out, out_step
            )
        else:  # the other kernel writes four rows of scores, which there may be no room for
            for i in range(n):
                _bytes_1(
                    at,
                    starts,
                    scales,
                    corrections,
                    n_tiles,
                    fours,
                    to + line * i,
                    line,
                    step_at + 4 * i,
                    out + out_step * i,
                    out_step,
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
