"""Real vectors on disk: a folder with ``<set>_base.npy`` and ``<set>_query.npy``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpu import Metric

#: Distance under which each set is searched.
METRICS: dict[str, Metric] = {"sift": "l2", "text": "cosine"}


@dataclass(frozen=True, slots=True)
class VectorSet:
    """Rows f32[n, d] in an order that means nothing, and queries f32[q, d] from elsewhere."""

    name: str
    metric: Metric
    rows: NDArray[np.float32]
    queries: NDArray[np.float32]


def load_set(folder: Path, name: str, rows: int | None = None, queries: int = 200) -> VectorSet:
    """Read a set and shuffle its rows; ``rows`` None reads all. Raise FileNotFoundError."""
    base = np.load(folder / f"{name}_base.npy", mmap_mode="r")
    order = np.random.default_rng(0).permutation(len(base))[:rows]
    shuffled = np.take(base, order, axis=0).astype(np.float32)
    asked = np.load(folder / f"{name}_query.npy")[:queries].astype(np.float32)
    return VectorSet(name, METRICS[name], shuffled, asked)
