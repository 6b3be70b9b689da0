"""Launches of place.cu: queries and rows in a codec's terms, before their rotation."""

from __future__ import annotations

import numpy as np

from gpu.codec import FARTHEST_QUERY

from .device import Kernel
from .layout import CodecView
from .scratch import Queue
from .topk import TOP_THREADS


def place(
    queue: Queue, codec: CodecView, vectors: int, n: int, to: tuple[int, int], *, rows: bool
) -> None:
    """Place f32[n, dim] at ``vectors`` as queries or as rows.

    ``to``: addresses of f32[n, plain_stride], and of i32[n] that say which queries are near enough
    to the data for float32 scores; others become zero. Rows may come out infinite.
    """
    plain, near = to
    queue.device.launch(
        Kernel("place", "place"),
        (n, 1, 1),
        TOP_THREADS,
        (
            np.uint64(vectors),
            np.int32(codec.dim),
            np.int32(codec.plain_stride),
            np.int32(codec.metric),
            np.int32(rows),
            np.uint64(codec.centre),
            np.float32(codec.scale),
            np.float32(codec.query_norm),
            farthest(codec),
            np.uint64(plain),
            np.uint64(near),
        ),
        queue.stream,
    )


def farthest(codec: CodecView) -> np.float32:
    """Return the largest norm of a placed query that lists can answer."""
    return np.float32(FARTHEST_QUERY * codec.query_norm)
