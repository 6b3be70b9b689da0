"""Launches of rerank.cu: exact distances to candidate rows, and the nearest of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .device import Kernel
from .layout import RowsView
from .scratch import BLOCKS_A_MULTIPROCESSOR, Queue
from .topk import KEY_BYTES, TOP_THREADS, TOP_WARPS, capacity


class Candidates(NamedTuple):
    """Row ids i64[queries, each] at an address; -1 for none."""

    address: int
    queries: int
    each: int


class Hits(NamedTuple):
    """Addresses: ids i64[q, k] and distances f32[q, k]."""

    ids: int
    distances: int


class RerankScratch(NamedTuple):
    """Addresses of ``keys`` u64[q, r] and of ``arrived`` u32[q], 0 before and after."""

    keys: int
    arrived: int


def distances(queue: Queue, rows: RowsView, queries: int, candidates: Candidates, to: int) -> None:
    """Write exact distances f32[q, r] of queries f32[q, d] to candidates, +inf to none."""
    queue.device.launch(
        Kernel("rerank", f"distances<{component(rows)}>"),
        _grid(queue, candidates),
        TOP_THREADS,
        (
            *_of_rows(queries, rows),
            np.uint64(candidates.address),
            np.int32(candidates.each),
            np.uint64(to),
        ),
        queue.stream,
    )


def rerank(
    queue: Queue,
    rows: RowsView,
    queries: int,
    candidates: Candidates,
    k: int,
    scratch: RerankScratch,
    to: Hits,
) -> None:
    """Write the k nearest of at most ``MOST_RESULTS`` candidates a query, nearest first.

    -1 and +inf where there are fewer; NaN distances come last.
    """
    room = capacity(max(candidates.each, k))
    queue.device.launch(
        Kernel("rerank", f"rerank<{component(rows)}>"),
        _grid(queue, candidates),
        TOP_THREADS,
        (
            *_of_rows(queries, rows),
            np.uint64(candidates.address),
            np.int32(candidates.each),
            np.int32(k),
            np.int32(room),
            np.uint64(scratch.keys),
            np.uint64(scratch.arrived),
            np.uint64(to.ids),
            np.uint64(to.distances),
        ),
        queue.stream,
        KEY_BYTES * room,
    )


def component(rows: RowsView) -> str:
    """Return what C++ calls the type of raw components."""
    return "f16" if rows.is_half else "float"


def _grid(queue: Queue, candidates: Candidates) -> tuple[int, int, int]:
    """Give each candidate a warp, as long as that does no more than fill the card."""
    most = 8 * BLOCKS_A_MULTIPROCESSOR * queue.device.multiprocessors // candidates.queries
    return max(1, min(-(-candidates.each // TOP_WARPS), most)), candidates.queries, 1


def _of_rows(queries: int, rows: RowsView) -> tuple[np.generic, ...]:
    return (
        np.uint64(queries),
        np.uint64(rows.chunks),
        np.int32(rows.shift),
        np.int64(rows.stride_bytes),
        np.int32(rows.dim),
        np.int32(rows.metric),
    )
