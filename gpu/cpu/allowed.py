"""From places in a list to row ids, and away with rows that a search may not see."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .features import FLAVOUR
from .jit import compiled, emitted
from .selection import compressed, ones
from .simd import (
    I8,
    I32,
    V16F,
    V16I,
    broadcast,
    function,
    load,
    moved,
    number,
    peek_f32,
    peek_i32,
    peek_u8,
    pointer,
    poke_f32,
    poke_i32,
    splat,
    store,
)

V16_FLAGS = ir.VectorType(ir.IntType(1), 16)


@emitted
def _keep_wide(
    typing: Any,
    ids: Any,
    length: Any,
    allowed: Any,
    scores: Any,
    places: Any,
    start: Any,
    stop: Any,
) -> Any:
    """Do what ``_keep_plain`` does in AVX-512, 16 places at a time.

    Bits are read by aligned words of 32: a word with one byte of the bitmap lies in its page.
    """

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        ids, length, allowed, scores, places, start, stop = args
        kinds = [V16I, I8.as_pointer(), V16I, V16_FLAGS, I32]
        gather = function(b, "llvm.x86.avx512.mask.gather.dpi.512", V16I, kinds)
        nothing, four = splat(V16I, 0), ir.Constant(I32, 4)
        lanes, end = ir.Constant(V16I, list(range(16))), broadcast(b, b.trunc(length, I32), V16I)
        kept = cgutils.alloca_once(b, start.type)
        b.store(start, kept)
        rounds = b.lshr(b.add(b.sub(stop, start), number(15)), number(4))
        with cgutils.for_range(b, rounds) as loop:
            first = b.add(start, b.mul(loop.index, number(16)))
            left = broadcast(b, b.trunc(b.sub(stop, first), I32), V16I)
            score = load(b, moved(b, scores, first, 4), V16F)
            place = load(b, moved(b, places, first, 4), V16I)
            there = b.and_(b.icmp_signed("<", lanes, left), b.icmp_unsigned("<", place, end))
            names = b.call(gather, [nothing, pointer(b, ids, I8), place, there, four])
            word = b.lshr(names, splat(V16I, 5))
            bits = b.call(gather, [nothing, pointer(b, allowed, I8), word, there, four])
            bit = b.and_(b.lshr(bits, b.and_(names, splat(V16I, 31))), splat(V16I, 1))
            good = b.and_(there, b.icmp_unsigned("!=", bit, nothing))
            n = b.load(kept)
            store(b, compressed(b, score, good), moved(b, scores, n, 4))
            store(b, compressed(b, names, good), moved(b, places, n, 4))
            b.store(b.add(n, ones(b, good)), kept)
        return b.load(kept)

    return types.intp(*[types.intp] * 7), emit


@compiled
def _keep_plain(
    ids: int, length: int, allowed: int, scores: int, places: int, start: int, stop: int
) -> int:
    """Turn places [start, stop) of a buffer into row ids; drop rows not allowed or not there."""
    kept = start
    for i in range(start, stop):
        place = peek_i32(places + 4 * i)
        if place < length:
            row_id = peek_i32(ids + 4 * place)
            if (peek_u8(allowed + (row_id >> 3)) >> (row_id & 7)) & 1:
                poke_f32(scores + 4 * kept, peek_f32(scores + 4 * i))
                poke_i32(places + 4 * kept, row_id)
                kept += 1
    return kept


#: keep_allowed(ids of the list, its length, bitmap, scores, places, start, stop) -> stop.
keep_allowed = _keep_wide if FLAVOUR == "avx512" else _keep_plain
