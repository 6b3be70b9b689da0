"""Sums of rows by list and of pieces by codeword: what an iteration of k-means moves centres to."""

from __future__ import annotations

import numpy as np

from .arrays import F32, F64, I32, I64, U8

#: Up to here summing by list is fastest as a product with a matrix of zeros and ones.
FEW_LISTS = 64
#: Components that one block of work may copy.
BLOCK_COMPONENTS = 1 << 22


def sum_by_list(points: F32, list_ids: I32, n_lists: int) -> tuple[F64, I64]:
    """Return sums f64[L, d] and counts i64[L] of ``points`` f32[n, d] by ``list_ids`` i32[n]."""
    sums = np.zeros((n_lists, points.shape[1]), np.float64)
    step = max(1, BLOCK_COMPONENTS // points.shape[1])
    for first in range(0, len(points), step):
        _add(sums, points[first : first + step], list_ids[first : first + step])
    counts: I64 = np.bincount(list_ids, minlength=n_lists)
    return sums, counts


def _add(sums: F64, points: F32, list_ids: I32) -> None:
    if len(sums) <= FEW_LISTS:
        members = (list_ids == np.arange(len(sums))[:, None]).astype(np.float32)
        sums += members @ points
        return
    order = np.argsort(list_ids, kind="stable")
    ordered = list_ids[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    sums[ordered[starts]] += np.add.reduceat(points[order], starts, axis=0)


def sum_by_codeword(residuals: F32, codes: U8, size: int) -> tuple[F64, I64]:
    """Return sums f64[m, K, s], counts i64[m, K] of the pieces of f32[n, m * s] by u8[n, m]."""
    n, m = codes.shape
    pieces = residuals.reshape(n, m, -1)
    slots = (codes + size * np.arange(m, dtype=np.int32)).ravel()
    counts: I64 = np.bincount(slots, minlength=m * size)
    sums = np.empty((m * size, pieces.shape[2]), np.float64)
    for i in range(pieces.shape[2]):
        sums[:, i] = np.bincount(slots, pieces[:, :, i].ravel(), minlength=m * size)
    return sums.reshape(m, size, -1), counts.reshape(m, size)
