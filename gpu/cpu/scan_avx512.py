"""The scan in AVX-512: VBMI looks 64 codes up at once, VNNI adds up four sub-quantizers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .factors import scores_of
from .jit import emitted
from .layout import BLOCK, FACTOR_BYTES
from .selection import compressed, ones
from .simd import (
    BYTES_IN_DOT,
    I16,
    I32,
    I64,
    V16F,
    V16I,
    V64B,
    accumulator,
    broadcast,
    function,
    load,
    moved,
    number,
    splat,
    store,
)


def dot_bytes(b: Any, total: Any, unsigned: Any, signed: Any) -> Any:
    """Add to each int32 of ``total`` the products of its four bytes (AVX-512 VNNI)."""
    kind = V64B if BYTES_IN_DOT else V16I
    dot = function(b, "llvm.x86.avx512.vpdpbusd.512", V16I, [V16I, kind, kind])
    return b.call(dot, [total, b.bitcast(unsigned, kind), b.bitcast(signed, kind)])


def _wide_sums(b: Any, block: Any, groups: Any, table: Any) -> list[Any]:
    """Return the table sums of 64 rows: one lookup serves four sub-quantizers of 16 rows."""
    permute = function(b, "llvm.x86.avx512.permvar.qi.512", V64B, [V64B, V64B])
    low, of_group = splat(V64B, 15), ir.Constant(V64B, [0, 16, 32, 48] * 16)
    sums = [accumulator(b, V16I) for _ in range(4)]
    with cgutils.for_range(b, groups) as loop:
        entries = load(b, moved(b, table, loop.index, 64), V64B)
        codes = moved(b, block, loop.index, 128)
        for half in range(2):
            pairs = load(b, b.add(codes, number(64 * half)), V64B)
            upper = b.bitcast(b.lshr(b.bitcast(pairs, V16I), splat(V16I, 4)), V64B)
            for part, nibbles in enumerate((pairs, upper)):
                places = b.or_(b.and_(nibbles, low), of_group)
                found = b.call(permute, [entries, places])
                total = sums[2 * half + part]
                b.store(dot_bytes(b, b.load(total), found, splat(V64B, 1)), total)
    return [b.load(total) for total in sums]


@emitted
def scan_wide(
    typing: Any,
    blocks: Any,
    n_blocks: Any,
    groups: Any,
    table: Any,
    slope: Any,
    offset: Any,
    unit: Any,
    base: Any,
    limit: Any,
    first: Any,
    scores: Any,
    places: Any,
    found: Any,
) -> Any:
    """Scan blocks in AVX-512; see scan.py."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        blocks, n_blocks, groups, table, slope, offset, unit, base, limit, first = args[:10]
        scores, places, found = args[10:]
        of_query = {
            "slope": broadcast(b, slope, V16F),
            "offset": broadcast(b, offset, V16F),
            "unit": broadcast(b, unit, V16F),
        }
        base_lanes = broadcast(b, base, V16F)
        below = broadcast(b, b.fsub(limit, base), V16F)
        code_bytes = b.mul(groups, number(128))
        block_bytes = b.add(code_bytes, number(FACTOR_BYTES))
        count = cgutils.alloca_once(b, I64)
        b.store(found, count)
        lanes = [ir.Constant(V16I, [16 * part + i for i in range(16)]) for part in range(4)]
        with cgutils.for_range(b, n_blocks) as loop:
            block = b.add(blocks, b.mul(loop.index, block_bytes))
            sums = _wide_sums(b, block, groups, table)
            values = scores_of(b, sums, b.add(block, code_bytes), of_query)
            masks = [b.fcmp_ordered("<", value, below) for value in values]
            some = b.or_(b.or_(masks[0], masks[1]), b.or_(masks[2], masks[3]))
            hit = b.icmp_unsigned("!=", b.bitcast(some, I16), ir.Constant(I16, 0))
            with b.if_then(hit):
                place = b.trunc(b.add(first, b.mul(loop.index, number(BLOCK))), I32)
                start = broadcast(b, place, V16I)
                n = b.load(count)
                for value, mask, lane in zip(values, masks, lanes, strict=True):
                    kept = compressed(b, b.fadd(value, base_lanes), mask)
                    store(b, kept, moved(b, scores, n, 4))
                    store(b, compressed(b, b.add(start, lane), mask), moved(b, places, n, 4))
                    n = b.add(n, ones(b, mask))
                b.store(n, count)
        return b.load(count)

    floats = [types.float32] * 5
    return types.intp(*[types.intp] * 4, *floats, *[types.intp] * 4), emit
