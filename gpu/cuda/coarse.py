"""Launches of coarse.cu: which lists are probed.

Few queries take one launch, ``coarse_few``. Many are placed (place.py), rotated and scored
(products.py), then ``choose`` and ``prepare`` do the rest.
"""

from __future__ import annotations

import numpy as np

from .device import Kernel
from .layout import CodecView, ListsView
from .place import farthest
from .scratch import Queue, Scratch, SearchShape
from .topk import KEY_BYTES, MOST_RESULTS, TOP_THREADS, capacity

#: More queries than this share the centroids better as tiles of products: below, each query reads
#: all centroids once, which costs less than three more launches.
FEW_QUERIES = 8
#: Outputs of a block that rotates (coarse.cu).
ROTATED_TOGETHER = 32
#: Static shared memory of the kernels, with room to spare.
STATIC_BYTES = 2048


def takes_few(queue: Queue, codec: CodecView, shape: SearchShape) -> bool:
    """Say whether ``coarse_few`` can and should do it."""
    few = shape.queries <= FEW_QUERIES and shape.nprobe <= MOST_RESULTS
    return few and _few_bytes(codec, shape) + STATIC_BYTES <= queue.device.shared_bytes


def coarse_few(
    queue: Queue,
    codec: CodecView,
    lists: ListsView,
    queries: int,
    shape: SearchShape,
    scratch: Scratch,
) -> None:
    """Place queries f32[q, dim], write ``placed``, ``near``, ``probes``, ``constants``, spans."""
    rotating = -(-codec.stride // ROTATED_TOGETHER) if codec.rotation else 0
    queue.device.launch(
        Kernel("coarse", "coarse_few"),
        (shape.list_blocks + rotating, shape.queries, 1),
        TOP_THREADS,
        (
            np.uint64(queries),
            np.int32(codec.dim),
            np.int32(codec.metric),
            np.uint64(codec.centre),
            np.float32(codec.scale),
            np.float32(codec.query_norm),
            farthest(codec),
            np.uint64(codec.rotation),
            np.int32(codec.stride),
            np.uint64(codec.plain_centroids),
            np.int32(codec.plain_stride),
            np.int32(codec.nlist),
            np.int32(shape.lists_a_block),
            np.int32(shape.list_blocks),
            np.int32(shape.nprobe),
            np.int32(capacity(shape.nprobe)),
            np.int32(shape.run_length),
            *_of_lists(codec, lists),
            np.uint64(scratch.runs),
            np.uint64(scratch.coarse_arrived),
            np.uint64(scratch.placed),
            np.uint64(scratch.near),
            np.uint64(scratch.probes),
            np.uint64(scratch.constants),
            *_of_search(scratch),
        ),
        queue.stream,
        _few_bytes(codec, shape),
    )


def choose(
    queue: Queue, codec: CodecView, scores: int, shape: SearchShape, scratch: Scratch
) -> None:
    """Write ``probes`` and ``constants`` from scores f32[q, L]; at most ``MOST_RESULTS`` lists."""
    queue.device.launch(
        Kernel("coarse", "choose"),
        (shape.queries, 1, 1),
        TOP_THREADS,
        (
            np.uint64(scores),
            np.int32(codec.nlist),
            np.int32(shape.nprobe),
            np.int32(capacity(shape.nprobe)),
            np.uint64(scratch.placed),
            np.uint64(codec.centroids),
            np.int32(codec.stride),
            np.int32(codec.metric),
            np.uint64(scratch.probes),
            np.uint64(scratch.constants),
        ),
        queue.stream,
        KEY_BYTES * capacity(shape.nprobe),
    )


def prepare(
    queue: Queue, codec: CodecView, lists: ListsView, shape: SearchShape, scratch: Scratch
) -> None:
    """Write spans and factors from ``probes``, ``constants`` and ``near``; clear the counters.

    Queries that are not near scan nothing.
    """
    queue.device.launch(
        Kernel("coarse", "prepare"),
        (shape.queries, 1, 1),
        TOP_THREADS,
        (
            np.uint64(scratch.probes),
            np.uint64(scratch.constants),
            np.int32(shape.nprobe),
            np.uint64(scratch.near),
            *_of_lists(codec, lists),
            *_of_search(scratch),
        ),
        queue.stream,
    )


def _few_bytes(codec: CodecView, shape: SearchShape) -> int:
    return 4 * codec.plain_stride + KEY_BYTES * capacity(shape.nprobe)


def _of_lists(codec: CodecView, lists: ListsView) -> tuple[np.uint64, ...]:
    addresses = (lists.starts, lists.lengths, codec.bias_mean, codec.bias_unit, codec.sigma)
    return tuple(np.uint64(address) for address in addresses)


def _of_search(scratch: Scratch) -> tuple[np.uint64, ...]:
    addresses = (
        scratch.spans,
        scratch.factors,
        scratch.largest,
        scratch.reach,
        scratch.arrived,
    )
    return tuple(np.uint64(address) for address in addresses)
