"""Lookup tables of a query: float32, and as bytes for the vector scans.

Byte tables have the minimum of each sub-quantizer taken off and one step for the whole query, so
that a row's sum is  smallest + step * (sum of bytes).  They are good enough as long as their
rounding error stays below that of the codes themselves; ``largest_step`` says how coarse that is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils

from gpu.codec import Codec

from .features import FLAVOUR
from .jit import Float, compiled, emitted
from .layout import BITS, BOOKS_AT, WIDTH, M
from .simd import (
    F32,
    V16B,
    V16F,
    V16I,
    accumulator,
    broadcast,
    folded,
    larger,
    load,
    moved,
    multiply_add,
    peek_i64,
    poke_i64,
    smaller,
    splat,
    store,
)

#: Rounding error of byte tables over the error of the codes. Usual is 0.05; up to 0.1 nothing is
#: lost, 0.3 costs two hits in a hundred, which a few more re-ranked rows bring back.
ROUNDING_SHARE = 0.3
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


@emitted
def _products(typing: Any, query: Any, words: Any, width: Any, out: Any) -> Any:
    """Write minus the products of f32[width] with 16 codewords f32[width, 16]; return min, max."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        query, words, width, out = args
        total = accumulator(b, V16F)
        with cgutils.for_range(b, width) as loop:
            x = broadcast(b, load(b, moved(b, query, loop.index, 4), F32), V16F)
            y = load(b, moved(b, words, loop.index, 64), V16F)
            b.store(multiply_add(b, x, y, b.load(total)), total)
        value = b.fsub(splat(V16F, 0.0), b.load(total))
        store(b, value, out)
        both = [folded(b, value, smaller), folded(b, value, larger)]
        return context.make_tuple(b, signature.return_type, both)

    return types.UniTuple(types.float32, 2)(*[types.intp] * 4), emit


@emitted
def _to_bytes(typing: Any, entries: Any, scale: Any, out: Any) -> Any:
    """Write 16 entries as bytes: (entry - smallest) * scale, rounded; return the smallest."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        entries, scale, out = args
        value = load(b, entries, V16F)
        lowest = folded(b, value, smaller)
        above = b.fsub(value, broadcast(b, lowest, V16F))
        scaled = multiply_add(b, above, broadcast(b, scale, V16F), splat(V16F, 0.5))
        store(b, b.trunc(b.fptosi(scaled, V16I), V16B), out)
        return lowest

    return types.float32(types.intp, types.float32, types.intp), emit


@compiled
def float_tables(codec: int, query: int, out: int) -> Float:
    """Write the tables f32[m, K] of a placed query f32[D]; return the largest range of one."""
    m, width = peek_i64(codec + 8 * M), peek_i64(codec + 8 * WIDTH)
    groups = 16 if peek_i64(codec + 8 * BITS) == 8 else 1
    words = peek_i64(codec + 8 * BOOKS_AT)
    widest = np.float32(0)
    for _ in range(m):
        lowest, highest = np.float32(np.inf), np.float32(-np.inf)
        for _ in range(groups):
            low, high = _products(query, words, width, out)
            lowest, highest = min(lowest, low), max(highest, high)
            words += 64 * width
            out += 64
        widest = max(widest, highest - lowest)
        query += 4 * width
    return widest


@compiled
def byte_tables(tables: int, m: int, widest: Float, out: int) -> tuple[Float, Float]:
    """Write 4-bit tables f32[m, 16] as u8[m padded to four, 16]; return (smallest, step)."""
    smallest = np.float32(0)
    scale = np.float32(255) / max(widest, np.float32(1e-30))
    for j in range(m):
        smallest += _to_bytes(tables + 64 * j, scale, out + 16 * j)
    for word in range(2 * m, 8 * ((m + 3) >> 2)):
        poke_i64(out + 8 * word, 0)
    return smallest, np.float32(1) / scale
