"""Launches of exact.cu: the nearest of all rows of a range, or of given rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .device import Kernel
from .layout import RowsView
from .rerank import Hits, component
from .scratch import BLOCKS_A_MULTIPROCESSOR, Queue
from .topk import KEY_BYTES, TOP_THREADS, TOP_WARPS, capacity

#: Queries that share the reading of a row (exact.cu has these two).
ONE, TOGETHER = 1, 4
#: Rows of one step of a block (exact.cu), and steps that make a block worth its merging.
STEP_ROWS, FEWEST_STEPS = 8 * TOP_WARPS, 2
#: Static shared memory of the kernel, with room to spare.
STATIC_BYTES = 1024


class Where(NamedTuple):
    """``n`` rows from row id ``first`` on, or the i32 ids at ``ids`` (0: none are given)."""

    n: int
    first: int = 0
    ids: int = 0


@dataclass(frozen=True, slots=True)
class ExactShape:
    """How an exact search is cut up: queries of a block, and blocks that share the rows."""

    queries: int
    k: int
    together: int
    blocks: int

    @classmethod
    def of(cls, queue: Queue, queries: int, k: int, n: int) -> ExactShape:
        """Cut up the comparison of ``queries`` with ``n`` rows."""
        fits = _shared_bytes(TOGETHER, k) + STATIC_BYTES <= queue.device.shared_bytes
        together = TOGETHER if queries > 1 and fits else ONE
        others = -(-queries // together)
        blocks = BLOCKS_A_MULTIPROCESSOR * queue.device.multiprocessors // others
        most = -(-n // (STEP_ROWS * FEWEST_STEPS))
        return cls(queries, k, together, max(1, min(blocks, most)))

    @property
    def run_bytes(self) -> int:
        """Bytes of ``runs``."""
        return KEY_BYTES * self.queries * self.blocks * self.k


class ExactScratch(NamedTuple):
    """Addresses of ``runs`` (``run_bytes``) and of ``arrived`` u32[q], 0 before and after."""

    runs: int
    arrived: int


class Asked(NamedTuple):
    """Addresses of queries f32[q, d] and of the bitmap of allowed rows (0: all are)."""

    queries: int
    allowed: int = 0


def exact(
    queue: Queue,
    rows: RowsView,
    asked: Asked,
    where: Where,
    shape: ExactShape,
    scratch: ExactScratch,
    to: Hits,
) -> None:
    """Write the k nearest rows, at most ``MOST_RESULTS``; rows without a cosine are no hits."""
    room = capacity(shape.k)
    queue.device.launch(
        Kernel("exact", f"exact<{component(rows)}, {shape.together}>"),
        (shape.blocks, -(-shape.queries // shape.together), 1),
        TOP_THREADS,
        (
            np.uint64(asked.queries),
            np.int32(shape.queries),
            np.uint64(rows.chunks),
            np.int32(rows.shift),
            np.int64(rows.stride_bytes),
            np.int32(rows.dim),
            np.int32(rows.metric),
            np.int32(where.first),
            np.int32(where.n),
            np.uint64(where.ids),
            np.uint64(asked.allowed),
            np.int32(shape.k),
            np.int32(room),
            np.uint64(scratch.runs),
            np.uint64(scratch.arrived),
            np.uint64(to.ids),
            np.uint64(to.distances),
        ),
        queue.stream,
        _shared_bytes(shape.together, shape.k),
    )


def _shared_bytes(together: int, k: int) -> int:
    return KEY_BYTES * together * capacity(k)
