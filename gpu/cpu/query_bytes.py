"""A query as bytes from 0 to 255, as int8 tiles and rows are multiplied with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils

from .jit import Float, compiled, emitted
from .simd import (
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
    peek_f32,
    poke_u8,
    splat,
    store,
)


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
def query_bytes(query: int, middle: int, dim: int, out: int) -> Float:
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
