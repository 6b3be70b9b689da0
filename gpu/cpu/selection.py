"""Selection of the smallest scores by counting: cheaper than any partial sort.

A threshold is found by interpolation and bisection on the value; each step counts the scores below
it, 16 at a time. Scores are float32 at an address, padded with ``BIG`` to a multiple of 16.

Invariant: whatever the scores are, equal ones included, ``shrink`` leaves at most ``keep + slack``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from .features import FLAVOUR
from .jit import Float, compiled, emitted
from .simd import (
    I1,
    I16,
    I64,
    V16F,
    V16I,
    accumulator,
    broadcast,
    folded,
    function,
    larger,
    load,
    moved,
    number,
    peek_f32,
    peek_i32,
    poke_f32,
    poke_i32,
    smaller,
    splat,
    store,
)

#: More than every score, and finite so that interpolation can work with it.
BIG = 3e38
#: Up to here repeated search for the smallest beats sorting.
FEW_TO_SORT = 4
#: Steps of the search for a threshold; bisection alone separates float32 values in that many.
STEPS = 48


@emitted
def bounds(typing: Any, scores: Any, n16: Any) -> Any:
    """Return the smallest and largest of 16 n16 scores; the padding does not count as large."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        low, high = accumulator(b, V16F, BIG), accumulator(b, V16F, -BIG)
        with cgutils.for_range(b, args[1]) as loop:
            x = load(b, moved(b, args[0], loop.index, 64), V16F)
            b.store(smaller(b, x, b.load(low)), low)
            counts = b.fcmp_ordered("<", x, splat(V16F, BIG))
            b.store(b.select(counts, larger(b, x, b.load(high)), b.load(high)), high)
        both = [folded(b, b.load(low), smaller), folded(b, b.load(high), larger)]
        return context.make_tuple(b, signature.return_type, both)

    return types.UniTuple(types.float32, 2)(types.intp, types.intp), emit


@emitted
def count_below(typing: Any, scores: Any, n16: Any, limit: Any) -> Any:
    """Return how many of 16 n16 scores are below ``limit``."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        limit = broadcast(b, args[2], V16F)
        total = accumulator(b, V16I)
        with cgutils.for_range(b, args[1]) as loop:
            x = load(b, moved(b, args[0], loop.index, 64), V16F)
            below = b.sext(b.fcmp_ordered("<", x, limit), V16I)
            b.store(b.sub(b.load(total), below), total)
        return b.sext(folded(b, b.load(total), lambda b, x, y: b.add(x, y)), I64)

    return types.intp(types.intp, types.intp, types.float32), emit


def compressed(b: Any, vector: Any, mask: Any) -> Any:
    """Move the lanes that ``mask`` names to the front of the register (AVX-512).

    The form of the instruction that stores to memory is slow on some machines.
    """
    suffix = "f32" if vector.type == V16F else "i32"
    name = f"llvm.x86.avx512.mask.compress.v16{suffix}"
    kind = vector.type
    compress = function(b, name, kind, [kind, kind, ir.VectorType(I1, 16)])
    return b.call(compress, [vector, ir.Constant(kind, ir.Undefined), mask])


def ones(b: Any, mask: Any) -> Any:
    """Return the number of lanes that ``mask`` names."""
    bits = b.zext(b.bitcast(mask, I16), I64)
    return b.call(function(b, "llvm.ctpop.i64", I64, [I64]), [bits])


@emitted
def _keep_wide(
    typing: Any, scores: Any, ids: Any, n16: Any, limit: Any, to: Any, to_ids: Any
) -> Any:
    """Do what ``_keep_below`` does, in AVX-512."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        scores, ids, n16, limit, to, to_ids = args
        limit = broadcast(b, limit, V16F)
        kept = cgutils.alloca_once_value(b, number(0))
        b.store(number(0), kept)
        numbers = ir.Constant(V16I, list(range(16)))
        with cgutils.for_range(b, n16) as loop:
            x = load(b, moved(b, scores, loop.index, 64), V16F)
            below = b.fcmp_ordered("<", x, limit)
            some = b.icmp_unsigned("!=", b.bitcast(below, I16), ir.Constant(I16, 0))
            with b.if_then(some):
                start = b.trunc(b.mul(loop.index, number(16)), V16I.element)
                with b.if_else(b.icmp_signed("==", ids, number(0))) as (numbered, given):
                    with numbered:
                        counted = b.add(numbers, broadcast(b, start, V16I))
                        first_block = b.block
                    with given:
                        read = load(b, moved(b, ids, loop.index, 64), V16I)
                        second_block = b.block
                names = b.phi(V16I)
                names.add_incoming(counted, first_block)
                names.add_incoming(read, second_block)
                n = b.load(kept)
                store(b, compressed(b, x, below), moved(b, to, n, 4))
                store(b, compressed(b, names, below), moved(b, to_ids, n, 4))
                b.store(b.add(n, ones(b, below)), kept)
        return b.load(kept)

    arguments = [types.intp, types.intp, types.intp, types.float32, types.intp, types.intp]
    return types.intp(*arguments), emit


@compiled
def _keep_plain(scores: int, ids: int, n16: int, limit: Float, to: int, to_ids: int) -> int:
    n = 0
    for i in range(16 * n16):
        x = peek_f32(scores + 4 * i)
        if x < limit:
            name = i if ids == 0 else peek_i32(ids + 4 * i)
            poke_f32(to + 4 * n, x)
            poke_i32(to_ids + 4 * n, name)
            n += 1
    return n


#: keep_below(scores, ids, n16, limit, to, to_ids) copies the scores below ``limit`` and their ids
#: (their places if ``ids`` is 0) to the front of other or the same places; returns their number.
#: Up to 16 places past the kept ones are overwritten.
keep_below = _keep_wide if FLAVOUR == "avx512" else _keep_plain


@compiled
def pad(scores: int, n: int) -> None:
    """Put 16 times ``BIG`` behind n scores."""
    for i in range(16):
        poke_f32(scores + 4 * (n + i), np.float32(BIG))


@compiled
def threshold(scores: int, n: int, keep: int, slack: int) -> Float:
    """Return a value below which keep..keep + slack of n padded scores are.

    Where equal or nearly equal scores forbid that, more are below it.
    """
    n16 = (n + 15) >> 4
    low, high = bounds(scores, n16)
    high = high + abs(high) * np.float32(1e-6) + np.float32(1e-30)
    below_low, below_high = 0, n
    for step in range(STEPS):
        if below_high <= keep + slack:
            break
        share = np.float32(0.5)
        if step & 1 == 0:
            wanted = np.float32(keep + (slack >> 1) - below_low) + np.float32(0.5)
            share = wanted / np.float32(below_high - below_low)
        middle = low + (high - low) * share
        if not (low < middle < high):
            middle = low + (high - low) * np.float32(0.5)
            if not (low < middle < high):
                break
        below = count_below(scores, n16, middle)
        if below >= keep:
            high, below_high = middle, below
        else:
            low, below_low = middle, below
    return high


@compiled
def _before(scores: int, ids: int, i: int, j: int) -> bool:
    """Say whether entry i comes before entry j: by score, then by id."""
    x, y = peek_f32(scores + 4 * i), peek_f32(scores + 4 * j)
    return x < y or (not (y < x) and peek_i32(ids + 4 * i) < peek_i32(ids + 4 * j))


@compiled
def _swap(scores: int, ids: int, i: int, j: int) -> None:
    x, name = peek_f32(scores + 4 * i), peek_i32(ids + 4 * i)
    poke_f32(scores + 4 * i, peek_f32(scores + 4 * j))
    poke_i32(ids + 4 * i, peek_i32(ids + 4 * j))
    poke_f32(scores + 4 * j, x)
    poke_i32(ids + 4 * j, name)


@compiled
def sort(scores: int, ids: int, n: int) -> None:
    """Sort n scores with their ids in place, equal scores by id (heap sort)."""
    size = n
    start = n >> 1
    while size > 1:
        if start > 0:
            start -= 1
        else:
            size -= 1
            _swap(scores, ids, 0, size)
        parent = start
        while 2 * parent + 1 < size:
            child = 2 * parent + 1
            if child + 1 < size and _before(scores, ids, child, child + 1):
                child += 1
            if not _before(scores, ids, parent, child):
                break
            _swap(scores, ids, parent, child)
            parent = child


@compiled
def shrink(scores: int, ids: int, n: int, keep: int, slack: int) -> tuple[int, Float]:
    """Keep the best keep..keep + slack of n scores with their ids; return how many, and a limit.

    Scores from the limit on are not among the best ``keep``.
    """
    if n <= keep:
        return n, np.float32(BIG)
    pad(scores, n)
    limit = threshold(scores, n, keep, slack)
    m = keep_below(scores, ids, (n + 15) >> 4, limit, scores, ids)
    if m <= keep + slack:
        return m, limit
    # Equal scores, or nearly so: sort, and let no more equal ones in.
    sort(scores, ids, m)
    return keep, peek_f32(scores + 4 * (keep - 1))


@compiled
def sort_first(scores: int, ids: int, n: int, first: int) -> None:
    """Bring the ``first`` smallest of n scores to the front in order, equal scores by id."""
    if first > FEW_TO_SORT:
        sort(scores, ids, n)
        return
    for i in range(min(first, n)):
        best = i
        for j in range(i + 1, n):
            if _before(scores, ids, j, best):
                best = j
        _swap(scores, ids, i, best)
