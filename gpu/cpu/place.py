"""Queries in the terms of the placed rows, as ``Codec.place_queries`` defines them."""

from __future__ import annotations

import numpy as np

from .jit import compiled
from .layout import (
    CENTRE_AT,
    DIM,
    FARTHEST,
    LIMITS_AT,
    METRIC,
    QUERY_DIM,
    QUERY_NORM,
    ROTATION_AT,
    SCALE,
    TURN_CORRECTIONS_AT,
    TURN_KIND,
    TURN_SCALES_AT,
    TURNED_DIM,
    ZEROS_AT,
)
from .rerank import square_of
from .simd import hold, peek_f32, peek_i64, poke_f32, poke_u8
from .tiles import TOGETHER, score_bytes, score_floats

#: The largest finite float32; longer queries are taken for that long, as the definition does.
LARGEST = 3.4028234663852886e38


@compiled
def _centred(codec: int, query: int, out: int) -> None:
    """Write one query f32[d] normalised, centred and scaled."""
    dim, metric = peek_i64(codec + 8 * QUERY_DIM), peek_i64(codec + 8 * METRIC)
    limits, centre = peek_i64(codec + 8 * LIMITS_AT), peek_i64(codec + 8 * CENTRE_AT)
    length = np.float32(1)
    if metric != 0:
        wide = np.sqrt(square_of(query, dim))
        length = np.float32(min(wide, LARGEST) if wide > 0 else 1.0)
    if metric == 2:
        norm = peek_f32(limits + 4 * QUERY_NORM)
        for i in range(dim):
            poke_f32(out + 4 * i, peek_f32(query + 4 * i) / length * norm)
        return
    scale = peek_f32(limits + 4 * SCALE)
    for i in range(dim):
        off = peek_f32(query + 4 * i) / length - peek_f32(centre + 4 * i)
        poke_f32(out + 4 * i, off * scale)


@compiled
def _turn(codec: int, queries: int, query_step: int, out: int, n: int) -> None:
    """Rotate 1 to 4 queries f32[d], ``query_step`` bytes apart, to f32[n, D padded to 64]."""
    dim, turned_dim = peek_i64(codec + 8 * QUERY_DIM), peek_i64(codec + 8 * TURNED_DIM)
    rotation, zeros = peek_i64(codec + 8 * ROTATION_AT), peek_i64(codec + 8 * ZEROS_AT)
    n_tiles, step = turned_dim >> 6, 4 * turned_dim
    if peek_i64(codec + 8 * TURN_KIND):
        scales = peek_i64(codec + 8 * TURN_SCALES_AT)
        tiles = (rotation, zeros, scales, peek_i64(codec + 8 * TURN_CORRECTIONS_AT))
        score_bytes(tiles, n_tiles, zeros, dim, queries, query_step, out, step, n)
    else:
        score_floats(rotation, zeros, n_tiles, dim, queries, query_step, out, step, n)


@compiled
def place(codec: int, queries: int, n: int, out: int, far: int) -> None:
    """Write queries f32[n, d] as f32[n, D], and u8[n]: is it too far out for scores, and now 0."""
    dim, placed_dim = peek_i64(codec + 8 * QUERY_DIM), peek_i64(codec + 8 * DIM)
    rotation, turned_dim = peek_i64(codec + 8 * ROTATION_AT), peek_i64(codec + 8 * TURNED_DIM)
    farthest = np.float64(peek_f32(peek_i64(codec + 8 * LIMITS_AT) + 4 * FARTHEST))
    centred = np.zeros((TOGETHER, max(dim, placed_dim)), np.float32)
    turned = np.empty((TOGETHER, turned_dim), np.float32)
    asked, line = centred.ctypes.data, 4 * max(dim, placed_dim)
    for first in range(0, n, TOGETHER):
        size = min(TOGETHER, n - first)
        for i in range(size):
            _centred(codec, queries + 4 * dim * (first + i), asked + line * i)
        source, step = asked, line
        if rotation:
            source, step = turned.ctypes.data, 4 * turned_dim
            _turn(codec, asked, line, source, size)
        for i in range(size):
            to = out + 4 * placed_dim * (first + i)
            for j in range(placed_dim):
                poke_f32(to + 4 * j, peek_f32(source + step * i + 4 * j))
            near = np.sqrt(square_of(to, placed_dim)) <= farthest
            poke_u8(far + first + i, 0 if near else 1)
            for j in range(0 if near else placed_dim):
                poke_f32(to + 4 * j, np.float32(0))
    hold(centred, turned)
