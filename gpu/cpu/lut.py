"""Lookup tables of a query: float32, and as bytes for the vector scans.

Byte tables have the minimum of each sub-quantizer taken off and one step for the whole query, so
that a row's sum is  smallest + step * (sum of bytes).  They are good enough as long as their
rounding error stays below that of the codes themselves; ``largest_step`` says how coarse that is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from gpu.codec import Codec

from .features import FLAVOUR
from .jit import Float, compiled, emitted
from .layout import BITS, BOOKS_AT, WIDTH, M
from .simd import (
    F32,
    I32,
    V16B,
    V16F,
    V16I,
    accumulator,
    broadcast,
    load,
    moved,
    multiply_add,
    number,
    peek_i64,
    poke_i64,
    shuffled,
    smaller,
    splat,
    store,
)

#: Rounding error of byte tables over the error of the codes, taken from a bound that real codes
#: exceed by half. On sift (m = 64) byte tables lose a hit in a hundred at 10 re-ranked rows, two in
#: a thousand at 20 and none from 30 on, where 0.7 is exceeded by one query in a hundred. Float
#: tables cost ten times the scan.
ROUNDING_SHARE = 0.7
#: Lists with small residuals suffer first; a tenth of them may.
SIGMA_QUANTILE = 0.1


def largest_step(codec: Codec) -> float:
    """Return the coarsest step of byte tables that keeps the codec's recall; 0 for never.

    The codes err by sigma^2 sqrt(E) in the score of rows a residual's length away; E, the square
    of what they miss, is taken from the rate-distortion bound of m * bits bits for dim components.
    Bytes err by sigma step sqrt(m / 12).
    """
    if codec.bits == 8 or FLAVOUR == "portable":
        return 0.0
    error = codec.dim * 4.0 ** (-codec.bits * codec.m / codec.dim)
    sigma = float(np.quantile(codec.sigma, SIGMA_QUANTILE))
    return float(ROUNDING_SHARE * sigma * np.sqrt(error) / np.sqrt(codec.m / 12))


def _row(b: Any, query: Any, words: Any, width: Any) -> Any:
    """Return minus the products of f32[width] with 16 codewords f32[width, 16]."""
    total = accumulator(b, V16F)
    with cgutils.for_range(b, width) as loop:
        x = broadcast(b, load(b, moved(b, query, loop.index, 4), F32), V16F)
        y = load(b, moved(b, words, loop.index, 64), V16F)
        b.store(multiply_add(b, x, y, b.load(total)), total)
    return b.fsub(splat(V16F, 0.0), b.load(total))


def _smallest_and_largest(b: Any, row: Any) -> Any:
    """Return eight lanes of the smallest, then eight of minus the largest, in four steps."""
    minus = b.fsub(splat(V16F, 0.0), row)
    first = shuffled(b, row, minus, [*range(8), *range(16, 24)])
    second = shuffled(b, row, minus, [*range(8, 16), *range(24, 32)])
    both = smaller(b, first, second)
    for step in (4, 2, 1):
        both = smaller(b, both, shuffled(b, both, both, [lane ^ step for lane in range(16)]))
    return both


@emitted
def _raised_tables(typing: Any, query: Any, words: Any, m: Any, width: Any, out: Any) -> Any:
    """Write 4-bit tables f32[m, 16], each less its smallest entry.

    Return the largest entry of all, and the sum of what was taken off.
    """

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        query, words, m, width, out = args
        widest, taken = accumulator(b, V16F), accumulator(b, V16F)
        row_bytes, step = b.mul(width, number(64)), b.mul(width, number(4))
        with cgutils.for_range(b, m) as loop:
            at = b.add(words, b.mul(loop.index, row_bytes))
            row = _row(b, b.add(query, b.mul(loop.index, step)), at, width)
            both = _smallest_and_largest(b, row)
            lowest = shuffled(b, both, both, [0] * 16)
            spread = b.fadd(lowest, shuffled(b, both, both, [8] * 16))
            b.store(smaller(b, spread, b.load(widest)), widest)
            b.store(b.fadd(lowest, b.load(taken)), taken)
            store(b, b.fsub(row, lowest), moved(b, out, loop.index, 64))
        zero = ir.Constant(I32, 0)
        values = [b.extract_element(b.load(total), zero) for total in (widest, taken)]
        values[0] = b.fneg(values[0])
        return context.make_tuple(b, signature.return_type, values)

    return types.UniTuple(types.float32, 2)(*[types.intp] * 5), emit


@emitted
def _to_bytes(typing: Any, entries: Any, rows: Any, scale: Any, out: Any) -> Any:
    """Write rows of 16 entries as bytes: entry * scale, rounded."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        entries, rows, scale, out = args
        scale = broadcast(b, scale, V16F)
        with cgutils.for_range(b, rows) as loop:
            value = load(b, moved(b, entries, loop.index, 64), V16F)
            scaled = multiply_add(b, value, scale, splat(V16F, 0.5))
            rounded = b.trunc(b.fptosi(scaled, V16I), V16B)
            store(b, rounded, moved(b, out, loop.index, 16))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.float32, types.intp), emit


@emitted
def _float_rows(typing: Any, query: Any, words: Any, rows: Any, width: Any, out: Any) -> Any:
    """Write rows of 16 table entries of one sub-quantizer."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        query, words, rows, width, out = args
        row_bytes = b.mul(width, number(64))
        with cgutils.for_range(b, rows) as loop:
            at = b.add(words, b.mul(loop.index, row_bytes))
            store(b, _row(b, query, at, width), moved(b, out, loop.index, 64))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), emit


@compiled
def float_tables(codec: int, query: int, out: int) -> None:
    """Write the tables f32[m, K] of a placed query f32[D]."""
    m, width = peek_i64(codec + 8 * M), peek_i64(codec + 8 * WIDTH)
    rows = 16 if peek_i64(codec + 8 * BITS) == 8 else 1
    words = peek_i64(codec + 8 * BOOKS_AT)
    for j in range(m):
        at = words + 64 * width * rows * j
        _float_rows(query + 4 * width * j, at, rows, width, out + 64 * rows * j)


@compiled
def byte_tables(codec: int, query: int, room: int, out: int) -> tuple[Float, Float]:
    """Write 4-bit tables of a placed query as u8[m padded to four, 16].

    Return (smallest, step); ``room`` is for f32[m, 16].
    """
    m, width = peek_i64(codec + 8 * M), peek_i64(codec + 8 * WIDTH)
    words = peek_i64(codec + 8 * BOOKS_AT)
    widest, smallest = _raised_tables(query, words, m, width, room)
    step = max(widest, np.float32(1e-30)) / np.float32(255)
    _to_bytes(room, m, np.float32(1) / step, out)
    for word in range(2 * m, 8 * ((m + 3) >> 2)):
        poke_i64(out + 8 * word, 0)
    return smallest, step
