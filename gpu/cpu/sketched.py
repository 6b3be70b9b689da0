"""Sketches of a codec's centroids, and the trial that says whether and how they serve.

Super-centroids, the usual second level, do badly here: to miss no more than this does, a search for
64 of 16,384 lists had to look into 41 % of the groups on SIFT and into 70 % on text embeddings.
Sketches of a quarter and a third of the components left 3 and 4 % of the centroids.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu.arrays import F32, I64, AnyArray
from gpu.codec import Codec, half_squares

from . import layout
from .memory import aligned
from .rounded import TILE, Rounded, in_tiles, padded_halves, queries_near
from .sketch import STEPS

#: With half as many lists sketches took a quarter off the choice for one query of text, little for
#: one of SIFT, and batches, where four queries share a tile, were a fifth slower.
FEWEST_LISTS = 1 << 15
#: Shares of the components that are tried; sketches are multiples of this long.
SHARES, MULTIPLE = (1 / 8, 1 / 4, 1 / 3, 1 / 2), 16
#: Queries of the trial, at a residual's length from centroids and at half as much more, and scores
#: that it holds at a time.
QUERIES, FARTHER, MOST_SCORES = 128, 1.5, 1 << 23
#: Largest share of the wanted lists that sketches may lose, and what is kept beyond what the trial
#: needs for that: other queries are not those of the trial.
LOST_SHARE, MARGIN = 0.001, 1.25
#: What is not worth it: keeping more than this share of the lists, or reading more than this share
#: of the bytes. Lists for which that is weighed; a row by itself costs twice its bytes in a tile.
MOST_KEPT, MOST_READ, USUAL, ROW_COST = 0.25, 0.6, 64, 2


class Sketch(NamedTuple):
    """``basis`` f32[D, s], ``middle`` f32[D]; ``kept`` i64[STEPS]: centroids for 2^i lists."""

    basis: F32
    middle: F32
    kept: I64


def sketch_of(codec: Codec, in_bytes: bool) -> Sketch | None:
    """Return the cheapest sketch of the centroids, or None where looking at all is cheaper."""
    if codec.nlist < FEWEST_LISTS:
        return None
    middle = codec.centroids.mean(axis=0, dtype=np.float64).astype(np.float32)
    basis, trial = _principal(codec.centroids - middle), _Trial(codec, in_bytes)
    dims = codec.centroids.shape[1]
    widths = {-(-int(share * dims) // MULTIPLE) * MULTIPLE for share in SHARES}
    tried = [
        Sketch(part, middle, trial.kept(part, middle))
        for part in (basis[:, :width] for width in sorted(widths) if 0 < width < dims)
    ]
    costs = [_cost(sketch, codec) for sketch in tried]
    best = int(np.argmin(costs)) if tried else 0
    worth = bool(tried) and costs[best] <= MOST_READ * codec.nlist * dims
    return tried[best] if worth else None


def described(codec: Codec, rounded: Rounded | None, sketch: Sketch) -> dict[int, int | AnyArray]:
    """Return what kernels are told; ``rounded``: the centroids where they are int8."""
    is_ip = codec.metric == "ip"
    centred: F32 = codec.centroids - sketch.middle
    short: F32 = centred @ sketch.basis
    minus: F32 = -sketch.basis.T
    halves = np.zeros(codec.nlist, np.float32) if is_ip else half_squares(centred)
    places: dict[int, int | AnyArray] = {
        layout.SKETCH_DIM: short.shape[1],
        layout.SKETCH_MIDDLE_AT: aligned(np.zeros_like(sketch.middle) if is_ip else sketch.middle),
        layout.SKETCH_HALVES_AT: aligned(padded_halves(halves)),
        layout.SKETCH_KEPT_AT: sketch.kept,
    }
    if rounded is None:
        return places | {
            layout.SKETCH_TILES_AT: aligned(in_tiles(short)),
            layout.PROJECTION_AT: aligned(in_tiles(minus)),
        }
    tiles, projection = _rounded(short), _rounded(minus)
    numbers = np.pad(rounded.numbers, ((0, 0), (0, -rounded.numbers.shape[1] % TILE)))
    return places | {
        layout.SKETCH_TILES_AT: aligned(tiles.tiles()),
        layout.SKETCH_SCALES_AT: aligned(tiles.padded_steps()),
        layout.SKETCH_CORRECTIONS_AT: aligned(tiles.corrections()),
        layout.PROJECTION_AT: aligned(projection.tiles()),
        layout.PROJECTION_SCALES_AT: aligned(projection.padded_steps()),
        layout.PROJECTION_CORRECTIONS_AT: aligned(projection.corrections()),
        layout.CENTROID_BYTES_AT: aligned(numbers),
    }


class _Trial:
    """Queries near centroids, and the lists that they want, nearest first."""

    def __init__(self, codec: Codec, in_bytes: bool) -> None:
        self._codec, self._in_bytes = codec, in_bytes
        n = max(16, min(QUERIES, MOST_SCORES // codec.nlist))
        both = [queries_near(codec, n // 2), queries_near(codec, n // 2, FARTHER)]
        self._queries = np.concatenate(both)
        self._most = int(MOST_KEPT * codec.nlist)
        true = codec.constants(self._queries)
        wanted = min(1 << 10, self._most)
        best = np.argpartition(true, wanted - 1, axis=1)[:, :wanted]
        order = np.take_along_axis(true, best, axis=1).argsort(axis=1)
        self._best = np.take_along_axis(best, order, axis=1)

    def kept(self, basis: F32, middle: F32) -> I64:
        """Return i64[STEPS]: how many of the best sketches hold the 2^i lists that are wanted."""
        scores = self._scores(basis, middle)
        found, ordered = np.take_along_axis(scores, self._best, axis=1), np.sort(scores, axis=1)
        ranks = np.array([np.searchsorted(*pair) for pair in zip(ordered, found, strict=True)])
        kept = np.zeros(STEPS, np.int64)
        for step in range(self._best.shape[1].bit_length()):
            needed = np.quantile(ranks[:, : 1 << step], 1 - LOST_SHARE, method="higher") + 1
            least = max(int(MARGIN * needed), (1 << step) + 4, int(kept[step - 1]))
            if least > self._most:
                break
            kept[step] = least
        return kept

    def _scores(self, basis: F32, middle: F32) -> F32:
        """Return the scores that kernels compute by sketches, f32[q, L], up to a number each."""
        codec, is_ip = self._codec, self._codec.metric == "ip"
        centred: F32 = codec.centroids - middle
        short: F32 = centred @ basis
        asked: F32 = self._queries if is_ip else self._queries - middle
        if self._in_bytes:
            sketches = _rounded(basis.T).products(asked)
            products = _rounded(short).products(sketches)
        else:
            sketches = asked @ basis
            products = sketches @ short.T
        halves = half_squares(centred)
        scores: F32 = -products if is_ip else halves - products
        return scores


def _principal(centred: F32) -> F32:
    """Return the principal components of f32[n, D] as columns, f32[D, D], the largest first."""
    vectors = np.linalg.eigh(centred.T.astype(np.float64) @ centred)[1]
    components: F32 = np.ascontiguousarray(vectors[:, ::-1].astype(np.float32))
    return components


def _cost(sketch: Sketch, codec: Codec) -> float:
    """Return how many components are read to choose the usual number of lists."""
    dims, width = sketch.basis.shape
    kept = int(sketch.kept[USUAL.bit_length()])
    if kept == 0:
        return float("inf")
    return codec.nlist * width + ROW_COST * dims * kept + dims * (width + -width % TILE)


def _rounded(vectors: F32) -> Rounded:
    return Rounded.of(vectors, np.zeros(vectors.shape[1], np.float32))
