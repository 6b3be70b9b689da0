"""Among many lists: a look at short sketches of all centroids, then at those that it leaves.

A sketch is a centroid's first principal components, 64 sketches a tile. How many centroids are kept
for a number of lists wanted is found by a trial when lists are opened (sketched.py). Those kept are
compared by bytes, row by row, or exactly where there are no bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils

from .features import FLAVOUR
from .jit import compiled, emitted
from .layout import (
    CENTROID_BYTES_AT,
    COARSE_KIND,
    CORRECTIONS_AT,
    DIM,
    HALVES_AT,
    MIDDLE_AT,
    PADDED_LISTS,
    PROJECTION_AT,
    PROJECTION_CORRECTIONS_AT,
    PROJECTION_SCALES_AT,
    SCALES_AT,
    SKETCH_CORRECTIONS_AT,
    SKETCH_DIM,
    SKETCH_HALVES_AT,
    SKETCH_KEPT_AT,
    SKETCH_MIDDLE_AT,
    SKETCH_SCALES_AT,
    SKETCH_TILES_AT,
    ZEROS_AT,
)
from .query_bytes import query_bytes
from .scan_avx512 import dot_bytes
from .simd import (
    I64,
    V16I,
    V64B,
    accumulator,
    folded,
    hold,
    load,
    moved,
    peek_f32,
    peek_i32,
    peek_i64,
    poke_f32,
    prefetch,
)
from .tiles import TOGETHER, score_bytes, score_floats

#: Rows of bytes asked for ahead.
AHEAD = 16
#: Numbers of wanted lists that are told apart: 1, 2, 3 to 4, 5 to 8, ...
STEPS = 32


@compiled
def kept_by_sketch(codec: int, wanted: int) -> int:
    """Return how many centroids sketches leave for ``wanted`` lists; 0: look at all instead."""
    if peek_i64(codec + 8 * SKETCH_DIM) == 0:
        return 0
    step = 0
    while (1 << step) < wanted:
        step += 1
    if step >= STEPS:
        return 0
    return peek_i64(peek_i64(codec + 8 * SKETCH_KEPT_AT) + 8 * step)


@compiled
def _project(codec: int, queries: int, n: int, out: int, line: int) -> None:
    """Write the sketches f32[n, line] of 1 to 4 placed queries f32[n, D]."""
    dim, zeros = peek_i64(codec + 8 * DIM), peek_i64(codec + 8 * ZEROS_AT)
    middle, basis = peek_i64(codec + 8 * SKETCH_MIDDLE_AT), peek_i64(codec + 8 * PROJECTION_AT)
    off = np.empty((n, dim), np.float32)
    at = off.ctypes.data
    for i in range(n):
        for t in range(dim):
            x = peek_f32(queries + 4 * (dim * i + t)) - peek_f32(middle + 4 * t)
            poke_f32(at + 4 * (dim * i + t), x)
    if peek_i64(codec + 8 * COARSE_KIND):
        scales = peek_i64(codec + 8 * PROJECTION_SCALES_AT)
        tiles = (basis, zeros, scales, peek_i64(codec + 8 * PROJECTION_CORRECTIONS_AT))
        score_bytes(tiles, line >> 6, zeros, dim, at, 4 * dim, out, 4 * line, n)
    else:
        score_floats(basis, zeros, line >> 6, dim, at, 4 * dim, out, 4 * line, n)
    hold(off)


@compiled
def score_sketches(codec: int, queries: int, n: int, out: int) -> None:
    """Write scores of all lists f32[4, padded L] by sketches, for 1 to 4 queries f32[n, D]."""
    dim, lists = peek_i64(codec + 8 * SKETCH_DIM), peek_i64(codec + 8 * PADDED_LISTS)
    zeros, line = peek_i64(codec + 8 * ZEROS_AT), (dim + 63) & -64
    tiles, halves = peek_i64(codec + 8 * SKETCH_TILES_AT), peek_i64(codec + 8 * SKETCH_HALVES_AT)
    sketches = np.empty((TOGETHER, line), np.float32)
    at = sketches.ctypes.data
    _project(codec, queries, n, at, line)
    if peek_i64(codec + 8 * COARSE_KIND):
        scales = peek_i64(codec + 8 * SKETCH_SCALES_AT)
        rounded = (tiles, halves, scales, peek_i64(codec + 8 * SKETCH_CORRECTIONS_AT))
        score_bytes(rounded, lists >> 6, zeros, dim, at, 4 * line, out, 4 * lists, n)
    else:
        score_floats(tiles, halves, lists >> 6, dim, at, 4 * line, out, 4 * lists, n)
    hold(sketches)


@emitted
def _dot_wide(typing: Any, asked: Any, row: Any, n64: Any) -> Any:
    """Return the product of 64 n bytes from 0 to 255 with as many from -128 to 127."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        asked, row, n64 = args
        total = accumulator(b, V16I)
        with cgutils.for_range(b, n64) as loop:
            x = load(b, moved(b, asked, loop.index, 64), V64B)
            word = load(b, moved(b, row, loop.index, 64), V64B)
            b.store(dot_bytes(b, b.load(total), x, word), total)
        return b.sext(folded(b, b.load(total), lambda b, x, y: b.add(x, y)), I64)

    return types.int64(types.intp, types.intp, types.intp), emit


@compiled
def _dot_none(asked: int, row: int, n64: int) -> int:
    """Stand where there are no bytes."""
    return 0


_dot = _dot_wide if FLAVOUR == "avx512" else _dot_none


@compiled
def byte_constants(codec: int, query: int, n: int, values: int, numbers: int) -> None:
    """Write the scores that int8 tiles give of n lists, for one placed query f32[D]."""
    dim, middle = peek_i64(codec + 8 * DIM), peek_i64(codec + 8 * MIDDLE_AT)
    rows, halves = peek_i64(codec + 8 * CENTROID_BYTES_AT), peek_i64(codec + 8 * HALVES_AT)
    scales, corrections = peek_i64(codec + 8 * SCALES_AT), peek_i64(codec + 8 * CORRECTIONS_AT)
    line = (dim + 63) & -64
    asked = np.empty(line, np.uint8)
    step = query_bytes(query, middle, dim, asked.ctypes.data)
    for i in range(n + AHEAD):
        if i < n:
            ahead = rows + line * peek_i32(numbers + 4 * i)
            for offset in range(0, line, 64):
                prefetch(ahead + offset)
        if i >= AHEAD:
            place = 4 * peek_i32(numbers + 4 * (i - AHEAD))
            total = _dot(asked.ctypes.data, rows + (line >> 2) * place, line >> 6)
            product = np.float32(total + peek_i32(corrections + place))
            scale = peek_f32(scales + place) * step
            poke_f32(values + 4 * (i - AHEAD), product * scale + peek_f32(halves + place))
    hold(asked)
