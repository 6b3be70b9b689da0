"""pgvector's distances, exactly: what SQL's operators would say about two vectors.

======== ======= ===================================================
metric   SQL     value
======== ======= ===================================================
l2       ``<->`` sqrt(sum (a - b)^2)
cosine   ``<=>`` 1 - a.b / (|a| |b|), clamped to [0, 2]; NaN for zero
ip       ``<#>`` -(a.b)
======== ======= ===================================================

pgvector accumulates in float32 (vector.c); here sums are float64 and the result is rounded once,
so values agree to about 1e-5 and results do not depend on how rows were batched.
"""

from __future__ import annotations

import numpy as np

from .arrays import F32, F64
from .params import Metric


def pair_distances(metric: Metric, a: F32, b: F32) -> F32:
    """Return the distance of each row pair of ``a`` and ``b``, f32[n, d] both, as f32[n].

    ``a`` may also be one vector f32[1, d]. Pairs with a zero vector have cosine distance NaN, which
    Postgres sorts last.
    """
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if metric == "l2":
            wide_b -= wide_a
            return _single(np.sqrt(_dot(wide_b, wide_b)))
        dots = _dot(wide_a, wide_b)
        if metric == "ip":
            return _single(0.0 - dots)
        lengths = np.sqrt(_dot(wide_a, wide_a)) * np.sqrt(_dot(wide_b, wide_b))
        return _single(1.0 - np.clip(dots / lengths, -1.0, 1.0))


def _dot(a: F64, b: F64) -> F64:
    dots: F64 = np.einsum("...d,...d->...", a, b)
    return dots


def _single(values: F64) -> F32:
    return values.astype(np.float32)
