"""Vectors in tiles, as float32 or int8, and trials that say where int8 is exact enough.

Rounding must not show beside the error of the codes: that of a score of rows a residual's length
away, ``code_error``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu.arrays import F32, I32, AnyArray
from gpu.codec import Codec, half_squares

from .features import FLAVOUR
from .selection import BIG

#: Vectors of a tile.
TILE = 64
#: Int8 tiles are tried with this many queries near as many centroids, for this many lists each.
TRIED_QUERIES, TRIED_LISTS = 128, 32
#: They must miss at most this share of the lists that float32 tiles choose.
MISSED_SHARE = 0.002
#: Largest share of the codes' own error by which constants and rotated queries may be off: errors
#: add up as squares, so a tenth is half a percent more.
ERROR_SHARE = 0.1


def code_error(codec: Codec) -> float:
    """Return by how much codes err in the score of rows a residual's length away, as lut.py."""
    left = codec.dim * 4.0 ** (-codec.bits * codec.m / codec.dim)
    return float(np.median(codec.sigma) ** 2 * np.sqrt(left))


def in_tiles(vectors: F32) -> F32:
    """Return f32[n, d] as f32[ceil(n / 64), d, 64]."""
    padded = np.pad(vectors, ((0, -len(vectors) % TILE), (0, 0)))
    return padded.reshape(-1, TILE, vectors.shape[1]).transpose(0, 2, 1)


def padded_halves(halves: F32) -> F32:
    """Return what scores begin with, f32[n], up to the end of the last tile: nothing is there."""
    return np.pad(halves, (0, -len(halves) % TILE), constant_values=np.float32(BIG))


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """Vectors f32[n, d] around ``middle`` f32[d] as int8, each with its own step f32[n]."""

    middle: F32
    steps: F32
    numbers: NDArray[np.int8]

    @classmethod
    def of(cls, vectors: F32, middle: F32) -> Rounded:
        """Round."""
        off = vectors - middle
        steps = np.maximum(np.abs(off).max(axis=1), np.float32(1e-30)) / np.float32(127)
        numbers = np.rint(off / steps[:, None]).astype(np.int8)
        return cls(middle, steps.astype(np.float32), numbers)

    def tiles(self) -> AnyArray:
        """Return int8[ceil(n / 64), ceil(d / 4), 64, 4]."""
        n, dims = self.numbers.shape
        padded = np.pad(self.numbers, ((0, -n % TILE), (0, -dims % 4)))
        return padded.reshape(-1, TILE, padded.shape[1] // 4, 4).transpose(0, 2, 1, 3)

    def corrections(self) -> I32:
        """Return minus 128 times the sums of the bytes: queries are bytes from 0 to 255."""
        sums: I32 = -128 * self.numbers.sum(axis=1, dtype=np.int32)
        return np.pad(sums, (0, -len(sums) % TILE))

    def padded_steps(self) -> F32:
        """Return the steps up to the end of the last tile."""
        return np.pad(self.steps, (0, -len(self.steps) % TILE))

    def products(self, queries: F32) -> F32:
        """Return the products that kernels compute of f32[q, d] with all vectors, f32[q, n]."""
        step = np.maximum(np.abs(queries).max(axis=1, keepdims=True), 1e-20) / np.float32(127)
        found: F32 = np.rint(queries / step) * step @ (self.numbers.T * self.steps)
        return found


def trial(codec: Codec) -> tuple[int, Rounded]:
    """Return how good int8 tiles of the centroids are, as COARSE_KIND in layout.py, and those."""
    middle = codec.centroids.mean(axis=0, dtype=np.float64).astype(np.float32)
    rounded = Rounded.of(codec.centroids, middle)
    if FLAVOUR != "avx512" or codec.nlist < 2 * TILE:
        return 0, rounded
    queries = queries_near(codec, TRIED_QUERIES)
    true, rough = codec.constants(queries), _constants(codec, rounded, queries)
    wanted = min(TRIED_LISTS, codec.nlist // 4)
    kept = wanted + (wanted >> 3) + 4
    limit = np.partition(rough, kept - 1, axis=1)[:, kept - 1 : kept]
    best = np.argpartition(true, wanted - 1, axis=1)[:, :wanted]
    rough_best = np.take_along_axis(rough, best, axis=1)
    if (rough_best > limit).mean() > MISSED_SHARE:
        return 0, rounded
    off = rough_best - np.take_along_axis(true, best, axis=1)
    error = float(np.median(off.std(axis=1)))
    return (2 if error <= ERROR_SHARE * code_error(codec) else 1), rounded


def turns_well(codec: Codec, rounded: Rounded) -> bool:
    """Whether queries turned by int8 tiles score rows nearly as those turned by float32."""
    rotation = codec.rotation
    if FLAVOUR != "avx512" or rotation is None:
        return False
    queries = queries_near(codec, TRIED_QUERIES) @ rotation.T
    off = rounded.products(queries) + queries @ rotation
    # A turned query's error meets residuals of length sigma sqrt(d) in any direction.
    error = float(np.median(np.sqrt((off**2).mean(axis=1)) * np.median(codec.sigma)))
    return error * np.sqrt(codec.dim) <= ERROR_SHARE * code_error(codec)


def queries_near(codec: Codec, count: int, farther: float = 1.0) -> F32:
    """Return queries ``farther`` times a residual's length from some centroids, f32[q, D]."""
    rng = np.random.default_rng(0)
    near = rng.permutation(codec.nlist)[:count]
    noise = rng.normal(size=(len(near), codec.centroids.shape[1])) * codec.sigma[near, None]
    queries: F32 = (codec.centroids[near] + farther * noise).astype(np.float32)
    return queries


def _constants(codec: Codec, rounded: Rounded, queries: F32) -> F32:
    """Return the constants that kernels compute by int8 tiles, up to one number per query."""
    if codec.metric == "ip":
        return -rounded.products(queries)
    halves = half_squares(codec.centroids - rounded.middle)
    constants: F32 = (halves - rounded.products(queries - rounded.middle)).astype(np.float32)
    return constants
