"""PCA with balanced eigenvalues: a rotation that shares the variance evenly among sub-quantizers.

Directions are the eigenvectors of the residual covariance. They are dealt, largest eigenvalue
first, to the sub-space with room that has the smallest product of eigenvalues so far (eigenvalue
allocation of Ge et al., "Optimized product quantization", 2013). One decomposition, no iteration.
"""

from __future__ import annotations

import numpy as np

from .arrays import F32, F64, I64

#: The decomposition takes d^3 time and every query d^2: seconds and a millisecond at this size.
MAX_ROTATED_DIM = 2048
#: Eigenvalues below this share of the largest are noise.
FLOOR = 1e-6


def balanced_pca(covariance: F64, m: int, width: int) -> F32:
    """Return f32[d, m * width] with orthonormal rows for a covariance f64[d, d], d <= m * width."""
    dim = len(covariance)
    values, vectors = np.linalg.eigh(covariance)
    columns = deal(values, m, width)
    rotation = np.zeros((dim, m * width), np.float32)
    rotation[:, columns] = vectors
    return rotation


def deal(eigenvalues: F64, m: int, width: int) -> I64:
    """Return the column of each eigenvalue f64[d] in m sub-spaces of ``width`` columns, i64[d].

    Values are divided by the smallest one kept, so that their logarithms are not negative: else the
    large ones would pile up in one sub-space.
    """
    floored = np.maximum(eigenvalues, max(FLOOR * float(eigenvalues.max()), 1e-300))
    weights = np.log(floored / floored.min())
    sums, filled = np.zeros(m), np.zeros(m, np.int64)
    columns = np.empty(len(eigenvalues), np.int64)
    for i in np.argsort(-eigenvalues, kind="stable"):
        target = int(np.argmin(np.where(filled < width, sums, np.inf)))
        columns[i] = target * width + filled[target]
        sums[target] += weights[i]
        filled[target] += 1
    return columns
