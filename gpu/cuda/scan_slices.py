"""Launches of scan_slices.cu: the low-latency scan, and the scores of everything it would see."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .device import Kernel
from .layout import GROUP_ROWS, CodecView, ListsView
from .scratch import Queue, Scratch, SearchShape
from .topk import KEY_BYTES, TOP_THREADS, TOP_WARPS, capacity

#: The table starts at a multiple of this (table.cuh).
TABLE_ALIGNMENT = 1024
#: Static shared memory of the kernel, with room to spare.
STATIC_BYTES = 1024


class Part(NamedTuple):
    """The nearest ``probes`` lists (0: all that are probed) of the queries that ``only`` says.

    ``only`` is the address of i32[q], 0 for queries to leave alone; 0 scans for all.
    """

    probes: int = 0
    only: int = 0


EVERYTHING = Part()


class KeysOf(NamedTuple):
    """Room for u64[groups, 32] keys of query number ``query``.

    ``groups`` is the first component of the query's last span.
    """

    query: int
    groups: int
    address: int

    @property
    def nbytes(self) -> int:
        """How much room that is."""
        return KEY_BYTES * GROUP_ROWS * self.groups


def shared_bytes(codec: CodecView, limit: int, *, staged: bool) -> int:
    """Return the dynamic shared memory of a block, with the table or without."""
    layout = codec.layout
    plain = KEY_BYTES * capacity(limit) + 4 * (layout.chunks + 1)
    if not staged:
        return plain + TABLE_ALIGNMENT
    entry = 2 if codec.bits == 8 and codec.rounds else 4
    return plain + TABLE_ALIGNMENT + entry * layout.padded_m * layout.codewords


def instance(codec: CodecView, limit: int, most_shared_bytes: int) -> tuple[str, int]:
    """Return the template arguments of kernels with tables, and their dynamic shared memory.

    4-bit tables are staged as float32, free of bank conflicts; 8-bit ones as float16 where the
    codec allows it, which halves both size and conflicts. Larger ones stay in device memory.
    """
    size = shared_bytes(codec, limit, staged=True)
    if size + STATIC_BYTES > most_shared_bytes:
        return f"<{codec.bits}, float, false>", shared_bytes(codec, limit, staged=False)
    entry = "f16" if codec.bits == 8 and codec.rounds else "float"
    return f"<{codec.bits}, {entry}, true>", size


def scan_slices(
    queue: Queue,
    codec: CodecView,
    lists: ListsView,
    allowed: int,
    shape: SearchShape,
    scratch: Scratch,
    part: Part = EVERYTHING,
) -> None:
    """Write ``scratch.ids`` and ``scores``, best first, from ``spans``, ``factors``, ``tables``.

    ``allowed`` is a bitmap's address; at most ``MOST_RESULTS`` rows a query.
    """
    arguments, size = instance(codec, shape.limit, queue.device.shared_bytes)
    queue.device.launch(
        Kernel("scan_slices", f"scan_slices{arguments}"),
        (shape.scan_blocks, shape.queries, 1),
        TOP_THREADS,
        (
            np.uint64(scratch.tables),
            np.uint64(scratch.largest),
            np.int32(codec.rounds),
            np.uint64(scratch.spans),
            np.uint64(scratch.factors),
            np.int32(part.probes or shape.nprobe),
            np.int32(shape.nprobe),
            np.uint64(lists.pages),
            np.int32(codec.layout.chunks),
            np.uint64(allowed),
            np.uint64(part.only),
            np.int32(shape.limit),
            np.int32(capacity(shape.limit)),
            np.uint64(scratch.reach),
            np.uint64(scratch.arrived),
            np.uint64(scratch.runs),
            np.uint64(scratch.ids),
            np.uint64(scratch.scores),
        ),
        queue.stream,
        size,
    )


def score_all(
    queue: Queue,
    codec: CodecView,
    lists: ListsView,
    allowed: int,
    shape: SearchShape,
    scratch: Scratch,
    keys: KeysOf,
) -> None:
    """Write the keys of all rows that one query scans, for more than ``MOST_RESULTS`` results.

    The host sorts them: the order of a key is (score, row id), all ones stand for no row.
    """
    query = keys.query
    blocks = min(-(-keys.groups // TOP_WARPS), 8 * queue.device.multiprocessors)
    queue.device.launch(
        Kernel("scan_slices", f"score_all<{codec.bits}>"),
        (max(1, blocks), 1, 1),
        TOP_THREADS,
        (
            np.uint64(scratch.tables + query * codec.layout.table_bytes),
            np.uint64(scratch.largest + 4 * query),
            np.int32(codec.rounds),
            np.uint64(scratch.spans + 16 * query * (shape.nprobe + 1)),
            np.uint64(scratch.factors + 16 * query * shape.nprobe),
            np.int32(shape.nprobe),
            np.uint64(lists.pages),
            np.int32(codec.layout.chunks),
            np.uint64(allowed),
            np.uint64(keys.address),
        ),
        queue.stream,
    )
