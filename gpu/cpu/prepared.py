"""A codec made ready for the kernels: padded, aligned and in tiles."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gpu.arrays import F32, I32, AnyArray
from gpu.codec import FARTHEST_QUERY, Codec, half_squares

from . import layout
from .features import FLAVOUR
from .lut import largest_step
from .memory import Described, aligned
from .selection import BIG

#: Centroids of a tile.
TILE = 64
#: Int8 tiles are tried with this many queries near as many centroids, for this many lists each.
TRIED_QUERIES, TRIED_LISTS = 128, 32
#: They must miss at most this share of the lists that float32 tiles choose.
MISSED_SHARE = 0.002


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
        layout.ZEROS_AT: np.zeros(dims + -dims % TILE, np.float32),
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
    if codec.rotation is not None:
        values[layout.ROTATION_AT] = aligned(_in_tiles(-codec.rotation.T))
    rounded = _Rounded.of(codec)
    tiles = _byte_tiles(codec, rounded) if rounded.good(codec) else _float_tiles(codec)
    for place, value in (values | tiles).items():
        described.put(place, value)
    return described


def _limits(codec: Codec) -> F32:
    limits = np.zeros(4, np.float32)
    limits[layout.LARGEST_STEP] = largest_step(codec)
    limits[layout.SCALE] = codec.scale
    limits[layout.QUERY_NORM] = codec.query_norm
    limits[layout.FARTHEST] = FARTHEST_QUERY * codec.query_norm
    return limits


def _in_tiles(vectors: F32) -> F32:
    """Return f32[n, d] as f32[ceil(n / 64), d, 64]."""
    padded = np.pad(vectors, ((0, -len(vectors) % TILE), (0, 0)))
    return padded.reshape(-1, TILE, vectors.shape[1]).transpose(0, 2, 1)


def _books(codebooks: F32) -> F32:
    """Return f32[m, K, s] as f32[m, K / 16, s, 16]."""
    m, size, width = codebooks.shape
    return codebooks.reshape(m, size // 16, 16, width).transpose(0, 1, 3, 2)


def _padded(values: F32, codec: Codec) -> F32:
    return np.pad(values, (0, -codec.nlist % TILE), constant_values=np.float32(BIG))


def _halves(codec: Codec, centroids: F32) -> F32:
    if codec.metric == "ip":
        return np.zeros(codec.nlist, np.float32)
    return half_squares(centroids)


def _float_tiles(codec: Codec) -> dict[int, int | AnyArray]:
    return {
        layout.COARSE_KIND: 0,
        layout.TILES_AT: aligned(_in_tiles(codec.centroids)),
        layout.HALVES_AT: aligned(_padded(_halves(codec, codec.centroids), codec)),
    }


class _Rounded:
    """Centroids around their middle as int8, each with its own step."""

    def __init__(self, middle: F32, steps: F32, numbers: AnyArray) -> None:
        self.middle, self.steps, self.numbers = middle, steps, numbers

    @classmethod
    def of(cls, codec: Codec) -> _Rounded:
        middle = codec.centroids.mean(axis=0, dtype=np.float64).astype(np.float32)
        off = codec.centroids - middle
        steps = np.maximum(np.abs(off).max(axis=1), np.float32(1e-30)) / np.float32(127)
        numbers = np.rint(off / steps[:, None]).astype(np.int8)
        return cls(middle, steps.astype(np.float32), numbers)

    def good(self, codec: Codec) -> bool:
        """Whether queries near centroids get the lists that they should."""
        if FLAVOUR != "avx512" or codec.nlist < 2 * TILE:
            return False
        rng = np.random.default_rng(0)
        near = rng.permutation(codec.nlist)[:TRIED_QUERIES]
        noise = rng.normal(size=(len(near), codec.centroids.shape[1])) * codec.sigma[near, None]
        queries = (codec.centroids[near] + noise).astype(np.float32)
        true = codec.constants(queries)
        rough = self._scores(codec, queries)
        wanted = min(TRIED_LISTS, codec.nlist // 4)
        kept = wanted + (wanted >> 3) + 4
        limit = np.partition(rough, kept - 1, axis=1)[:, kept - 1 : kept]
        best = np.argpartition(true, wanted - 1, axis=1)[:, :wanted]
        missed = np.take_along_axis(rough, best, axis=1) > limit
        return bool(missed.mean() <= MISSED_SHARE)

    def _scores(self, codec: Codec, queries: F32) -> F32:
        """Return what the kernel computes, f32[q, L]."""
        asked = queries if codec.metric == "ip" else queries - self.middle
        step = np.abs(asked).max(axis=1, keepdims=True) / np.float32(127)
        products = np.rint(asked / step) * step @ (self.numbers.T * self.steps)
        halves = _halves(codec, codec.centroids - self.middle)
        scores: F32 = (halves - products).astype(np.float32)
        return scores


def _byte_tiles(codec: Codec, rounded: _Rounded) -> dict[int, int | AnyArray]:
    numbers = rounded.numbers
    corrections: I32 = -128 * numbers.sum(axis=1, dtype=np.int32)
    pad_lists, pad_dims = -codec.nlist % TILE, -numbers.shape[1] % 4
    padded = np.pad(numbers, ((0, pad_lists), (0, pad_dims)))
    fours = padded.shape[1] // 4
    tiles = padded.reshape(-1, TILE, fours, 4).transpose(0, 2, 1, 3)
    halves = _halves(codec, codec.centroids - rounded.middle)
    return {
        layout.COARSE_KIND: 1,
        layout.TILES_AT: aligned(tiles),
        layout.HALVES_AT: aligned(_padded(halves, codec)),
        layout.SCALES_AT: aligned(np.pad(rounded.steps, (0, pad_lists))),
        layout.MIDDLE_AT: aligned(rounded.middle),
        layout.CORRECTIONS_AT: aligned(np.pad(corrections, (0, pad_lists))),
    }
