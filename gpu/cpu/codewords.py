"""Nearest codewords of residuals, and what biases and gains are made of, sixteen rows at a time.

Rows lie across the lanes of a vector: a codeword's score of 16 rows takes one instruction for each
of its components, and nothing is summed across lanes. r.rhat and rhat.rhat fall out of the scores:
the best one is |codeword|^2 / 2 - r . codeword.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils

from gpu.arrays import F32, F64, I32, I64, U8
from gpu.codec import half_squares

from .features import FLAVOUR
from .jit import Float, compiled, emitted
from .memory import aligned
from .rerank import dots_float
from .selection import BIG
from .simd import (
    F32 as FLOAT,
)
from .simd import (
    I32 as INT,
)
from .simd import (
    V16F,
    V16I,
    accumulator,
    broadcast,
    load,
    moved,
    multiply_add,
    number,
    splat,
    store,
)

#: Rows of a tile: the lanes of a vector.
LANES = 16
#: Codewords whose scores are in registers together; AVX2 and NEON have a quarter of the room.
TOGETHER = 16 if FLAVOUR == "avx512" else 4


def _scores(b: Any, piece: Any, book: Any, halves: Any, width: Any, first: int) -> list[Any]:
    """Return |c|^2 / 2 - r.c of 16 rows for codewords ``first`` to ``first + TOGETHER``."""
    totals = [cgutils.alloca_once(b, V16F) for _ in range(TOGETHER)]
    for i, total in enumerate(totals):
        half = load(b, b.add(halves, number(4 * (first + i))), FLOAT)
        b.store(broadcast(b, half, V16F), total)
    with cgutils.for_range(b, width) as loop:
        minus = b.fneg(load(b, moved(b, piece, loop.index, 64), V16F))
        line = moved(b, book, loop.index, 64)
        for i, total in enumerate(totals):
            component = load(b, b.add(line, number(4 * (first + i))), FLOAT)
            product = multiply_add(b, minus, broadcast(b, component, V16F), b.load(total))
            b.store(product, total)
    return [b.load(total) for total in totals]


@emitted
def _best_codewords(
    typing: Any,
    pieces: Any,
    books: Any,
    halves: Any,
    m: Any,
    groups: Any,
    width: Any,
    codes: Any,
    sums: Any,
) -> Any:
    """Write the nearest codewords i32[m, 16] of 16 rows f32[m, s, 16]; the first one wins a tie.

    ``books`` f32[m, K / 16, s, 16], ``halves`` f32[m, K]; ``sums`` f32[2, 16]: the sums over m of
    |c|^2 / 2 and of |c|^2 / 2 - r.c for those codewords.
    """

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        pieces, books, halves, m, groups, width, codes, sums = args
        totals = [accumulator(b, V16F) for _ in range(2)]
        score, half = (cgutils.alloca_once(b, V16F) for _ in range(2))
        code = cgutils.alloca_once(b, V16I)
        size = b.mul(width, number(64))
        with cgutils.for_range(b, m) as loop:
            b.store(splat(V16F, BIG), score)
            b.store(splat(V16F, 0), half)
            b.store(splat(V16I, 0), code)
            piece = b.add(pieces, b.mul(loop.index, size))
            first_group = b.mul(loop.index, groups)
            with cgutils.for_range(b, groups) as inner:
                group = b.add(first_group, inner.index)
                book, halves_at = b.add(books, b.mul(group, size)), moved(b, halves, group, 64)
                base = broadcast(b, b.trunc(b.mul(inner.index, number(16)), INT), V16I)
                for first in range(0, 16, TOGETHER):
                    found = _scores(b, piece, book, halves_at, width, first)
                    for i, value in enumerate(found, first):
                        nearer = b.fcmp_ordered("<", value, b.load(score))
                        own = load(b, b.add(halves_at, number(4 * i)), FLOAT)
                        named = b.add(base, splat(V16I, i))
                        b.store(b.select(nearer, value, b.load(score)), score)
                        b.store(b.select(nearer, named, b.load(code)), code)
                        b.store(b.select(nearer, broadcast(b, own, V16F), b.load(half)), half)
            store(b, b.load(code), moved(b, codes, loop.index, 64))
            for total, value in zip(totals, (half, score), strict=True):
                b.store(b.fadd(b.load(total), b.load(value)), total)
        for i, total in enumerate(totals):
            store(b, b.load(total), b.add(sums, number(64 * i)))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 8), emit


class Books:
    """Codebooks f32[m, K, s] in the order that ``code_rows`` reads."""

    def __init__(self, codebooks: F32) -> None:
        m, size, width = codebooks.shape
        self.plain: F32 = np.array(codebooks, np.float32, order="C")
        in_lanes = self.plain.reshape(m, size // LANES, LANES, width).transpose(0, 1, 3, 2)
        self.lanes: F32 = aligned(in_lanes)
        self.halves: F32 = aligned(half_squares(self.plain.reshape(-1, width)).reshape(m, size))


@compiled
def _fill_tile(
    rows: F32, first: int, n: int, list_ids: I32, centroids: F32, inverse: F32, tile: F32
) -> None:
    """Write the residuals of n rows to ``tile`` f32[16, D padded], in units of their lists."""
    for i in range(n):
        number = list_ids[first + i]
        scale = inverse[number]
        for t in range(rows.shape[1]):
            tile[i, t] = (rows[first + i, t] - centroids[number, t]) * scale


@compiled
def _product(centroid: F32, plain: F32, codes: I32, row: int) -> Float:
    """Return c . rhat of one row of a tile."""
    m, _, width = plain.shape
    total = np.float32(0)
    for j in range(m):
        code, part = codes[j, row], np.float32(0)
        for t in range(width):
            part += centroid[j * width + t] * plain[j, code, t]
        total += part
    return total


@compiled
def code_rows(
    rows: F32,
    list_ids: I32,
    centroids: F32,
    inverse: F32,
    plain: F32,
    lanes: F32,
    halves: F32,
    codes: U8,
    terms: F32,
) -> None:
    """Write codes u8[n, m] and terms f32[5, n] of placed rows f32[n, D] with known lists.

    ``centroids`` f32[L, D padded to 16]; ``inverse`` f32[L]: one over the units of residuals;
    ``plain``, ``lanes`` and ``halves`` as of ``Books``. Terms: r.r, rhat.rhat, r.rhat, c.r, c.rhat.
    """
    n, dim = rows.shape
    m, size, width = plain.shape
    line = centroids.shape[1]
    tile = np.zeros((LANES, line), np.float32)
    pieces = np.empty((dim, LANES), np.float32)
    chosen, sums = np.empty((m, LANES), np.int32), np.empty((2, LANES), np.float32)
    for first in range(0, n, LANES):
        few = min(LANES, n - first)
        _fill_tile(rows, first, few, list_ids, centroids, inverse, tile)
        for t in range(dim):
            for i in range(LANES):
                pieces[t, i] = tile[i, t]
        _best_codewords(
            pieces.ctypes.data,
            lanes.ctypes.data,
            halves.ctypes.data,
            m,
            size >> 4,
            width,
            chosen.ctypes.data,
            sums.ctypes.data,
        )
        for i in range(few):
            centroid = centroids[list_ids[first + i]]
            product, square = dots_float(tile[i].ctypes.data, centroid.ctypes.data, line >> 4)
            terms[0, first + i] = square
            terms[1, first + i] = sums[0, i] * np.float32(2)
            terms[2, first + i] = sums[0, i] - sums[1, i]
            terms[3, first + i] = product
            terms[4, first + i] = _product(centroid, plain, chosen, i)
            for j in range(m):
                codes[first + i, j] = chosen[j, i]


@compiled
def add_by_codeword(
    residuals: F32, codes: U8, first: int, stop: int, sums: F64, counts: I64
) -> None:
    """Add the pieces of f32[n, m * s] to the sums f64[m, K, s] and counts i64[m, K] of their codes.

    Of sub-quantizers [first, stop), in the order of the rows: any cut gives the same sums.
    """
    width = sums.shape[2]
    for i in range(len(residuals)):
        for j in range(first, stop):
            code = codes[i, j]
            counts[j, code] += 1
            for t in range(width):
                sums[j, code, t] += residuals[i, j * width + t]
