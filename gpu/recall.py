"""Recall of a state against exact search, for monitoring and the demonstration."""

from __future__ import annotations

import numpy as np

from .arrays import F32, Bool
from .state import IndexState


def measure_recall(
    state: IndexState,
    queries: F32,
    k: int = 10,
    *,
    mask: Bool | None = None,
    nprobe: int | None = None,
    rerank: int | None = None,
    recall_target: float | None = None,
) -> float:
    """Return the share of the exact k nearest that a search of f32[q, d] finds, 0 to 1.

    A hit counts when it is no farther than the exact k-th neighbour, so ties do not matter. 1.0
    where there is nothing to find. Raise BadInput as ``search`` does.
    """
    found = state.search(
        queries, k, mask=mask, nprobe=nprobe, rerank=rerank, recall_target=recall_target
    )
    exact = state.search(queries, k, mask=mask, exact=True)
    there = (exact.ids >= 0) & np.isfinite(exact.distances)
    if not there.any():
        return 1.0
    farthest = np.where(there, exact.distances, -np.inf).max(axis=1, keepdims=True)
    right = (found.ids >= 0) & (found.distances <= farthest)
    return float(right.sum() / there.sum())
