"""Codec: everything that turns rows into codes and queries into tables, fixed at training time.

Scores are half squared distances (for ip: negative inner products) up to a constant per query:

    v = B[list] + bias[row] + gain[row] * sigma[list] * acc,   acc = sum over j of -p_j . codeword_j

so one table per query serves all lists. y = placed row, c = its list's centroid, r = y - c,
rhat = sigma * codewords:

    ============  ===================  ======================================
                  l2, cosine           ip
    ============  ===================  ======================================
    p             placed query         query
    B             |p - c|^2 / 2        -p . c
    bias, gain 1  rhat^2 / 2 + c.rhat  0
    bias, gain g  r^2 / 2 + g c.rhat   g c.rhat - c.r
    ============  ===================  ======================================

The gain g = r^2 / (r . rhat) makes the estimate unbiased (RaBitQ, Gao and Long 2024, put on PQ).
A row's bias is stored as float16 relative to its list: bias = mean[list] + unit[list] * b16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import F32, Bool
from .params import Metric
from .pq import LutType

#: A query this far out (in units of the data's own size) is answered exactly: float32 scores of
#: rows near each other would be equal.
FARTHEST_QUERY = 1e4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Codec:
    """Shapes: d dims, D = m * s placed dims (zero padded), L lists, K codewords.

    ``centre`` f32[d], ``scale`` a power of two, ``rotation`` f32[d, D] or None; ``centroids``
    f32[L, D]; ``sigma``, ``bias_mean``, ``bias_unit`` f32[L]; ``codebooks`` f32[m, K, s].
    ``query_norm`` is the usual norm of a placed row: ip queries get it, because the order of inner
    products does not depend on the query's norm but the errors of the estimate do.
    """

    metric: Metric
    bits: int
    scale: float
    query_norm: float
    use_gain: bool
    lut: LutType
    centre: F32
    rotation: F32 | None
    centroids: F32
    sigma: F32
    bias_mean: F32
    bias_unit: F32
    codebooks: F32

    @property
    def dim(self) -> int:
        """Number of dimensions of the vectors."""
        return len(self.centre)

    @property
    def nlist(self) -> int:
        """Number of lists."""
        return len(self.centroids)

    @property
    def m(self) -> int:
        """Number of sub-quantizers."""
        return len(self.codebooks)

    def place_rows(self, vectors: F32) -> F32:
        """Return rows f32[n, d] as f32[n, D]: normalised for cosine, centred, scaled, rotated."""
        return self._rotated(placed(self.metric, vectors, self.centre, self.scale))

    def place_queries(self, queries: F32) -> F32:
        """Return queries f32[q, d] as f32[q, D] in the terms of the placed rows."""
        if self.metric == "ip":
            return self._rotated(queries / lengths(queries)[:, None] * np.float32(self.query_norm))
        return self._rotated(placed(self.metric, queries, self.centre, self.scale))

    def constants(self, placed_queries: F32) -> F32:
        """Return B f32[q, L]: what each list adds to the scores of its rows."""
        products = placed_queries @ self.centroids.T
        if self.metric == "ip":
            return -products
        centroid_halves = half_squares(self.centroids)
        query_halves = half_squares(placed_queries)
        constants: F32 = centroid_halves - products + query_halves[:, None]
        return constants

    def in_range(self, placed_queries: F32) -> Bool:
        """Say which placed queries f32[q, D] are near enough to the data for float32 scores."""
        limit = FARTHEST_QUERY * self.query_norm
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("qd,qd->q", placed_queries, placed_queries))
            near: Bool = norms <= limit
        return near

    def _rotated(self, vectors: F32) -> F32:
        if self.rotation is not None:
            return vectors @ self.rotation
        width = self.centroids.shape[1] - vectors.shape[1]
        return np.pad(vectors, ((0, 0), (0, width))) if width else vectors


def placed(metric: Metric, vectors: F32, centre: F32, scale: float) -> F32:
    """Return f32[n, d] normalised (cosine), centred and scaled.

    Components can overflow to infinity for vectors far outside of what was trained on.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if metric == "cosine":
            vectors = vectors / lengths(vectors)[:, None]
        rows: F32 = np.subtract(vectors, centre, dtype=np.float32)
        rows *= np.float32(scale)
    return rows


def lengths(vectors: F32) -> F32:
    """Return the norms f32[n] of f32[n, d]; 1 for zero vectors."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    clipped = np.minimum(np.where(norms > 0, norms, 1.0), np.finfo(np.float32).max)
    return clipped.astype(np.float32)


def half_squares(vectors: F32) -> F32:
    """Return |v|^2 / 2 of each row, f32[n]."""
    squares: F32 = np.einsum("nd,nd->n", vectors, vectors)
    return squares / np.float32(2)
