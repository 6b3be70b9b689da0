"""Launches of scan_tiles.cu: the throughput scan, for queries that share lists.

The nearest lists are scanned as in scan_slices.py, which gives each query a limit; then all pairs
(query, list) are scored by tensor cores against it, and what passes is scored anew from the
query's table. The few queries with too many survivors are scanned as in scan_slices.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .device import Kernel
from .layout import CodecView, ListsView
from .scan_slices import Part, instance, scan_slices
from .scratch import ALIGNMENT, Queue, Scratch, SearchShape
from .topk import KEY_BYTES, TOP_THREADS, capacity

#: Queries that must share a list on average. A tile of mma.sync has eight: with fewer than two of
#: them filled, decoding and sorting pairs cost more than the look-ups that they save.
QUERIES_A_LIST = 16
#: mma.sync.m16n8k16 (PTX ISA) and cp.async.
SINCE = 80
#: Room for survivors, in results asked for, and at least.
ROOM_A_RESULT, LEAST_ROOM = 16, 2048
#: The limit comes from about this many rows for each result, and from at least this share of the
#: probed lists: a limit from fewer rows lets too many survive.
SAMPLED_ROWS, SAMPLED_SHARE = 4, 1 / 16
#: Components of a step (scan_tiles.cu): half queries are padded to it.
TILE_DEPTH = 64
#: Blocks that run at once on an SM: what registers allow.
BLOCKS_A_MULTIPROCESSOR = 2
PAIR_THREADS = 256


def pays(queue: Queue, codec: CodecView, shape: SearchShape) -> bool:
    """Say whether the throughput scan is the faster one: see ``QUERIES_A_LIST``."""
    shared = shape.queries * shape.nprobe / codec.nlist
    return queue.device.compute_capability >= SINCE and shared >= QUERIES_A_LIST


@dataclass(frozen=True, slots=True)
class TileScratch:
    """Addresses of what the throughput scan needs beside ``Scratch``.

    The first ``zeroed_bytes`` are zero before the first scan and after each. ``room`` survivors
    fit for each query; ``sampled`` lists give the limit.
    """

    list_counts: int
    first_pairs: int
    first_items: int
    cursors: int
    pairs: int
    halves: int
    halved: int
    survivors: int
    counts: int
    overflowed: int
    zeroed_bytes: int
    nbytes: int
    room: int
    sampled: int

    @classmethod
    def at(cls, address: int, codec: CodecView, shape: SearchShape, rows: float) -> TileScratch:
        """Lay it out from ``address`` on for queries that scan ``rows`` rows; 0 tells its size."""
        q, n = shape.queries, codec.nlist
        room = max(LEAST_ROOM, ROOM_A_RESULT * shape.limit)
        needed = SAMPLED_ROWS * shape.limit * shape.nprobe / max(rows, 1.0)
        sampled = int(min(shape.nprobe, max(1.0, needed, SAMPLED_SHARE * shape.nprobe)))
        sizes = {
            "list_counts": 4 * n,
            "first_pairs": 4 * (n + 1),
            "first_items": 4 * (n + 1),
            "cursors": 4 * n,
            "pairs": 4 * q * shape.nprobe,
            "halves": 2 * q * half_stride(codec),
            "halved": 8 * q,
            "survivors": KEY_BYTES * q * room,
            "counts": 4 * q,
            "overflowed": 4 * q,
        }
        places, at = {}, 0
        for name, size in sizes.items():
            places[name] = address + at
            at += -(-size // ALIGNMENT) * ALIGNMENT
        return cls(**places, zeroed_bytes=4 * n, nbytes=at, room=room, sampled=sampled)


def half_stride(codec: CodecView) -> int:
    """Return the halves from one query to the next."""
    return -(-codec.placed_dim // TILE_DEPTH) * TILE_DEPTH


def scan_tiles(
    queue: Queue,
    codec: CodecView,
    lists: ListsView,
    allowed: int,
    shape: SearchShape,
    scratch: Scratch,
    tiles: TileScratch,
) -> None:
    """Write ``scratch.ids`` and ``scores`` as ``scan_slices`` does."""
    sample = Part(probes=tiles.sampled)
    scan_slices(queue, codec, lists, allowed, shape, scratch, sample)
    _halve(queue, codec, shape, scratch, tiles)
    _group(queue, codec, lists, shape, scratch, tiles)
    _scan(queue, codec, lists, allowed, shape, scratch, tiles)
    _select(queue, codec, lists, shape, scratch, tiles)
    scan_slices(queue, codec, lists, allowed, shape, scratch, Part(only=tiles.overflowed))


def _halve(
    queue: Queue, codec: CodecView, shape: SearchShape, scratch: Scratch, tiles: TileScratch
) -> None:
    queue.device.launch(
        Kernel("scan_tiles", "halve_queries"),
        (shape.queries, 1, 1),
        TOP_THREADS,
        (
            np.uint64(scratch.placed),
            np.int32(codec.placed_dim),
            np.int32(codec.stride),
            np.int32(half_stride(codec)),
            np.uint64(tiles.halves),
            np.uint64(tiles.halved),
            np.uint64(tiles.counts),
        ),
        queue.stream,
    )


def _group(
    queue: Queue,
    codec: CodecView,
    lists: ListsView,
    shape: SearchShape,
    scratch: Scratch,
    tiles: TileScratch,
) -> None:
    """Sort pairs by list: count, sum up, scatter."""
    most = 8 * queue.device.multiprocessors
    blocks = max(1, min(-(-shape.queries * shape.nprobe // PAIR_THREADS), most))
    of = (
        np.uint64(scratch.probes),
        np.uint64(scratch.near),
        np.int32(shape.queries),
        np.int32(shape.nprobe),
    )
    count, plan, group = (
        Kernel("scan_tiles", name) for name in ("count_pairs", "plan_pairs", "group_pairs")
    )
    arguments = (*of, np.uint64(tiles.list_counts))
    queue.device.launch(count, (blocks, 1, 1), PAIR_THREADS, arguments, queue.stream)
    queue.device.launch(
        plan,
        (1, 1, 1),
        TOP_THREADS,
        (
            np.uint64(tiles.list_counts),
            np.uint64(lists.lengths),
            np.int32(codec.nlist),
            np.uint64(tiles.first_pairs),
            np.uint64(tiles.first_items),
            np.uint64(tiles.cursors),
        ),
        queue.stream,
    )
    arguments = (*of, np.uint64(tiles.cursors))
    places = (*arguments, np.uint64(tiles.pairs))
    queue.device.launch(group, (blocks, 1, 1), PAIR_THREADS, places, queue.stream)


def _scan(
    queue: Queue,
    codec: CodecView,
    lists: ListsView,
    allowed: int,
    shape: SearchShape,
    scratch: Scratch,
    tiles: TileScratch,
) -> None:
    queue.device.launch(
        Kernel("scan_tiles", f"scan_tiles<{codec.bits}>"),
        (BLOCKS_A_MULTIPROCESSOR * queue.device.multiprocessors, 1, 1),
        TOP_THREADS,
        (
            np.uint64(tiles.first_items),
            np.uint64(tiles.first_pairs),
            np.uint64(tiles.pairs),
            np.int32(codec.nlist),
            np.int32(shape.nprobe),
            np.uint64(lists.starts),
            np.uint64(lists.lengths),
            np.uint64(lists.pages),
            np.int32(codec.layout.chunks),
            np.uint64(codec.codebooks),
            np.int32(codec.m),
            np.int32(codec.width),
            np.float32(codec.largest_decoded),
            np.uint64(tiles.halves),
            np.int32(half_stride(codec)),
            np.uint64(tiles.halved),
            np.uint64(scratch.factors),
            np.uint64(scratch.scores),
            np.int32(shape.limit),
            np.uint64(allowed),
            np.uint64(tiles.survivors),
            np.int32(tiles.room),
            np.uint64(tiles.counts),
        ),
        queue.stream,
    )


def _select(
    queue: Queue,
    codec: CodecView,
    lists: ListsView,
    shape: SearchShape,
    scratch: Scratch,
    tiles: TileScratch,
) -> None:
    template_arguments, size = instance(codec, shape.limit, queue.device.shared_bytes)
    queue.device.launch(
        Kernel("scan_tiles", f"select_survivors{template_arguments}"),
        (shape.queries, 1, 1),
        TOP_THREADS,
        (
            np.uint64(scratch.tables),
            np.uint64(scratch.largest),
            np.int32(codec.rounds),
            np.uint64(scratch.spans),
            np.uint64(scratch.factors),
            np.int32(shape.nprobe),
            np.uint64(lists.pages),
            np.int32(codec.layout.chunks),
            np.uint64(tiles.survivors),
            np.int32(tiles.room),
            np.uint64(tiles.counts),
            np.int32(shape.limit),
            np.int32(capacity(shape.limit)),
            np.uint64(tiles.overflowed),
            np.uint64(scratch.ids),
            np.uint64(scratch.scores),
        ),
        queue.stream,
        size,
    )
