"""The scan with byte shuffles, which look up 16 codes (NEON) or 32 (AVX2) at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from .factors import scores_of
from .features import FLAVOUR, Flavour
from .jit import Float, compiled, emitted
from .layout import BLOCK, FACTOR_BYTES
from .simd import (
    I16,
    I64,
    V16B,
    V16F,
    V16I,
    V16S,
    V32B,
    accumulator,
    broadcast,
    function,
    hold,
    load,
    moved,
    number,
    poke_f32,
    poke_i32,
    shuffled,
    splat,
    store,
)

#: 16-bit sums hold this many bytes.
BYTES_IN_16_BITS = 256


def _looked_up(b: Any, row: Any, places: Any, flavour: Flavour) -> Any:
    """Return the bytes of a table row u8[16] at 32 places."""
    if flavour == "neon":
        lookup = function(b, "llvm.aarch64.neon.tbl1.v16i8", V16B, [V16B, V16B])
        lower = b.call(lookup, [row, shuffled(b, places, places, list(range(16)))])
        upper = b.call(lookup, [row, shuffled(b, places, places, list(range(16, 32)))])
        return shuffled(b, lower, upper, list(range(32)))
    lookup = function(b, "llvm.x86.avx2.pshuf.b", V32B, [V32B, V32B])
    return b.call(lookup, [shuffled(b, row, row, [*range(16), *range(16)]), places])


def shuffle_sums(b: Any, block: Any, padded: Any, table: Any, flavour: Flavour) -> list[Any]:
    """Return the table sums of 64 rows.

    Pairs of bytes are added as 16-bit numbers; what the odd bytes put
    on top of the even ones is taken off afterwards.
    """
    zero, totals = splat(V16S, 0), [accumulator(b, V16I) for _ in range(4)]
    pieces = b.udiv(b.add(padded, number(BYTES_IN_16_BITS - 1)), number(BYTES_IN_16_BITS))
    both, odd = ([cgutils.alloca_once(b, V16S) for _ in range(2)] for _ in range(2))
    with cgutils.for_range(b, pieces) as outer:
        start = b.mul(outer.index, number(BYTES_IN_16_BITS))
        left = b.sub(padded, start)
        whole = b.icmp_signed("<", left, number(BYTES_IN_16_BITS))
        size = b.select(whole, left, number(BYTES_IN_16_BITS))
        for variable in (*both, *odd):
            b.store(zero, variable)
        with cgutils.for_range(b, size) as loop:
            j = b.add(start, loop.index)
            row = load(b, moved(b, table, j, 16), V16B)
            pairs = load(b, moved(b, block, j, 32), V32B)
            upper = b.bitcast(b.lshr(b.bitcast(pairs, V16S), splat(V16S, 4)), V32B)
            for part, nibbles in enumerate((pairs, upper)):
                places = b.and_(nibbles, splat(V32B, 15))
                found = b.bitcast(_looked_up(b, row, places, flavour), V16S)
                b.store(b.add(b.load(both[part]), found), both[part])
                high = b.lshr(found, splat(V16S, 8))
                b.store(b.add(b.load(odd[part]), high), odd[part])
        for part in range(2):
            upper_sums = b.load(odd[part])
            lower_sums = b.sub(b.load(both[part]), b.shl(upper_sums, splat(V16S, 8)))
            for half in range(2):
                lanes = [8 * half + i // 2 + 16 * (i % 2) for i in range(16)]
                rows = b.zext(shuffled(b, lower_sums, upper_sums, lanes), V16I)
                total = totals[2 * half + part]
                b.store(b.add(b.load(total), rows), total)
    return [b.load(total) for total in totals]


@emitted
def _score_block(
    typing: Any,
    block: Any,
    padded: Any,
    table: Any,
    slope: Any,
    offset: Any,
    unit: Any,
    below: Any,
    out: Any,
) -> Any:
    """Write the scores of 64 rows without the base; return which are below, as bits."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        block, padded, table, slope, offset, unit, below, out = args
        of_query = {
            "slope": broadcast(b, slope, V16F),
            "offset": broadcast(b, offset, V16F),
            "unit": broadcast(b, unit, V16F),
        }
        sums = shuffle_sums(b, block, padded, table, FLAVOUR)
        values = scores_of(b, sums, moved(b, block, padded, 32), of_query)
        bits = number(0)
        for part, value in enumerate(values):
            store(b, value, b.add(out, number(64 * part)))
            mask = b.fcmp_ordered("<", value, broadcast(b, below, V16F))
            bits = b.or_(bits, b.shl(b.zext(b.bitcast(mask, I16), I64), number(16 * part)))
        return bits

    floats = [types.float32] * 4
    return types.uint64(*[types.intp] * 3, *floats, types.intp), emit


@emitted
def _lowest_bit(typing: Any, bits: Any) -> Any:
    """Return the place of the lowest bit that is set."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        count = function(b, "llvm.cttz.i64", I64, [I64, ir.IntType(1)])
        return b.call(count, [args[0], ir.Constant(ir.IntType(1), 1)])

    return types.intp(types.uint64), emit


@compiled
def scan_shuffling(
    blocks: int,
    n_blocks: int,
    groups: int,
    table: int,
    slope: Float,
    offset: Float,
    unit: Float,
    base: Float,
    limit: Float,
    first: int,
    scores: int,
    places: int,
    found: int,
) -> int:
    """Scan blocks; see scan.py."""
    room = np.empty(BLOCK, np.float32)
    values = room.ctypes.data
    for block in range(n_blocks):
        at = blocks + block * (128 * groups + FACTOR_BYTES)
        bits = _score_block(at, 4 * groups, table, slope, offset, unit, limit - base, values)
        while bits != np.uint64(0):
            row = _lowest_bit(bits)
            bits &= bits - np.uint64(1)
            poke_f32(scores + 4 * found, room[row] + base)
            poke_i32(places + 4 * found, first + BLOCK * block + row)
            found += 1
    hold(room)
    return found
