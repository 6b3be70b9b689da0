"""The smallest trained index, for running every kernel once before anybody waits for it."""

from __future__ import annotations

import numpy as np

from .codec import Codec
from .encoding import ListContents

#: Dimensions, lists and rows. Kernels are compiled once for all shapes.
DIM, LISTS, ROWS = 8, 4, 8


def smallest_codec() -> Codec:
    """Return a codec of 4-bit codes under l2, without rotation."""
    rng = np.random.default_rng(0)
    return Codec(
        metric="l2",
        bits=4,
        scale=1.0,
        query_norm=1.0,
        use_gain=True,
        lut="float32",
        centre=np.zeros(DIM, np.float32),
        rotation=None,
        centroids=rng.normal(size=(LISTS, DIM)).astype(np.float32),
        sigma=np.ones(LISTS, np.float32),
        bias_mean=np.zeros(LISTS, np.float32),
        bias_unit=np.ones(LISTS, np.float32),
        codebooks=rng.normal(size=(DIM // 2, 16, 2)).astype(np.float32),
    )


def smallest_contents() -> ListContents:
    """Return its ROWS rows, row ids 0, 1, ..., dealt to the lists in turn."""
    return ListContents(
        np.arange(ROWS, dtype=np.int32) % LISTS,
        np.arange(ROWS, dtype=np.int64),
        np.zeros((ROWS, DIM // 4), np.uint8),
        np.zeros(ROWS, np.float16),
        np.ones(ROWS, np.float16),
    )
