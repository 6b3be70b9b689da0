"""A codec made ready for the kernels: padded, aligned and in tiles."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gpu.arrays import F32, AnyArray
from gpu.codec import FARTHEST_QUERY, Codec, half_squares

from . import layout, sketched
from .lut import largest_step
from .memory import Described, aligned
from .rounded import TILE, Rounded, in_tiles, padded_halves, trial, turns_well


@lru_cache(maxsize=1)
def describe(codec: Codec) -> Described:
    """Return the array of layout.py for ``codec``; the last one is remembered."""
    described = Described(layout.CODEC_PLACES)
    dims = codec.centroids.shape[1]
    wide = np.pad(codec.centroids, ((0, 0), (0, -dims % 16)))
    code_bytes = layout.code_bytes(codec.bits, codec.m)
    values: dict[int, int | AnyArray] = {
        layout.DIM: dims,
        layout.NLIST: codec.nlist,
        layout.M: codec.m,
        layout.BITS: codec.bits,
        layout.WIDTH: codec.codebooks.shape[2],
        layout.METRIC: layout.METRICS[codec.metric],
        layout.QUERY_DIM: codec.dim,
        layout.CENTRE_AT: aligned(codec.centre),
        layout.TURNED_DIM: dims + -dims % TILE,
        layout.ZEROS_AT: np.zeros(max(dims, codec.dim) + TILE, np.float32),
        layout.CODE_BYTES: code_bytes,
        layout.BLOCK_BYTES: code_bytes + layout.FACTOR_BYTES,
        layout.CENTROIDS_AT: aligned(wide),
        layout.BOOKS_AT: aligned(_books(codec.codebooks)),
        layout.SIGMA_AT: aligned(codec.sigma),
        layout.MEAN_AT: aligned(codec.bias_mean),
        layout.UNIT_AT: aligned(codec.bias_unit),
        layout.LIMITS_AT: _limits(codec),
        layout.PADDED_LISTS: codec.nlist + -codec.nlist % TILE,
    }
    kind, rounded = trial(codec)
    tiles = _byte_tiles(codec, rounded, kind) if kind else _float_tiles(codec)
    sketch = sketched.sketch_of(codec, in_bytes=kind > 0)
    if sketch is not None:
        tiles |= sketched.described(codec, rounded if kind else None, sketch)
    for place, value in (values | tiles | _rotation(codec)).items():
        described.put(place, value)
    return described


def _limits(codec: Codec) -> F32:
    limits = np.zeros(4, np.float32)
    limits[layout.LARGEST_STEP] = largest_step(codec)
    limits[layout.SCALE] = codec.scale
    limits[layout.QUERY_NORM] = codec.query_norm
    limits[layout.FARTHEST] = FARTHEST_QUERY * codec.query_norm
    return limits


def _books(codebooks: F32) -> F32:
    """Return f32[m, K, s] as f32[m, K / 16, s, 16]."""
    m, size, width = codebooks.shape
    return codebooks.reshape(m, size // 16, 16, width).transpose(0, 1, 3, 2)


def _halves(codec: Codec, centroids: F32) -> F32:
    if codec.metric == "ip":
        return np.zeros(codec.nlist, np.float32)
    return half_squares(centroids)


def _float_tiles(codec: Codec) -> dict[int, int | AnyArray]:
    return {
        layout.COARSE_KIND: 0,
        layout.TILES_AT: aligned(in_tiles(codec.centroids)),
        layout.HALVES_AT: aligned(padded_halves(_halves(codec, codec.centroids))),
    }


def _byte_tiles(codec: Codec, rounded: Rounded, kind: int) -> dict[int, int | AnyArray]:
    is_ip = codec.metric == "ip"
    halves = _halves(codec, codec.centroids - rounded.middle)
    return {
        layout.COARSE_KIND: kind,
        layout.TILES_AT: aligned(rounded.tiles()),
        layout.HALVES_AT: aligned(padded_halves(halves)),
        layout.SCALES_AT: aligned(rounded.padded_steps()),
        layout.MIDDLE_AT: aligned(np.zeros_like(rounded.middle) if is_ip else rounded.middle),
        layout.CORRECTIONS_AT: aligned(rounded.corrections()),
    }


def _rotation(codec: Codec) -> dict[int, int | AnyArray]:
    """Return the tiles that turn queries: minus the rotation, since tiles are subtracted."""
    if codec.rotation is None:
        return {}
    turned = -codec.rotation.T
    rounded = Rounded.of(turned, np.zeros(codec.dim, np.float32))
    if not turns_well(codec, rounded):
        return {layout.TURN_KIND: 0, layout.ROTATION_AT: aligned(in_tiles(turned))}
    return {
        layout.TURN_KIND: 1,
        layout.ROTATION_AT: aligned(rounded.tiles()),
        layout.TURN_SCALES_AT: aligned(rounded.padded_steps()),
        layout.TURN_CORRECTIONS_AT: aligned(rounded.corrections()),
    }
