"""Launches of kmeans.cu: sums by group, for k-means and for codebooks. The same each time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .device import Kernel
from .encode import Books
from .products import Matrix
from .scratch import Queue
from .topk import TOP_THREADS

#: Threads of the kernels (kmeans.cu).
GROUP_THREADS, WORD_THREADS, WARP_THREADS = 128, 256, 32
#: Rows of a part of codeword sums: some 1,000 blocks for a training sample, few parts to add up.
PART_ROWS = 8192
#: Points of a part when they are put in order: a warp goes through them in turn. More where counts
#: of so many parts and groups would take more than 64 MiB.
ORDER_ROWS = 1024
MOST_MEMBERS = 1 << 24


class Groups(NamedTuple):
    """Points by group: ``order`` i32[n] and ``starts`` i32[n_groups + 1] at addresses."""

    n_groups: int
    order: int
    starts: int


class Grouping(NamedTuple):
    """What putting n points in order needs: ``parts`` of ``rows``, and room at addresses.

    ``members`` i32[parts, n_groups], ``sizes`` i32[n_groups].
    """

    parts: int
    rows: int
    members: int
    sizes: int


class CodewordSums(NamedTuple):
    """Addresses of sums f64[parts, m, s, K] and counts i32[parts, m, K]."""

    sums: int
    counts: int


def order_rows(n: int, n_groups: int) -> int:
    """Return into how long parts ``group_points`` cuts n points."""
    return max(ORDER_ROWS, -(-n * n_groups // MOST_MEMBERS))


def group_points(queue: Queue, numbers: int, n: int, room: Grouping, to: Groups) -> None:
    """Put points in order of their groups i32[n]; those of a group stay in theirs."""
    launch, stream = queue.device.launch, queue.stream
    points = (np.uint64(numbers), np.int32(n), np.int32(room.rows), np.int32(to.n_groups))
    members, sizes, starts = np.uint64(room.members), np.uint64(room.sizes), np.uint64(to.starts)
    blocks = (room.parts, 1, 1)
    launch(Kernel("kmeans", "count_members"), blocks, TOP_THREADS, (*points, members), stream)
    launch(
        Kernel("kmeans", "sum_members"),
        (-(-to.n_groups // TOP_THREADS), 1, 1),
        TOP_THREADS,
        (np.int32(room.parts), np.int32(to.n_groups), members, sizes),
        stream,
    )
    launch(
        Kernel("kmeans", "start_groups"),
        (1, 1, 1),
        TOP_THREADS,
        (np.int32(to.n_groups), sizes, starts),
        stream,
    )
    launch(
        Kernel("kmeans", "order_members"),
        blocks,
        WARP_THREADS,
        (*points, members, starts, np.uint64(to.order)),
        stream,
    )


def sum_groups(queue: Queue, points: Matrix, groups: Groups, sums: int) -> None:
    """Add the points of each group to sums f64[groups, stride], in ``order``."""
    queue.device.launch(
        Kernel("kmeans", "sum_groups"),
        (groups.n_groups, -(-points.stride // GROUP_THREADS), 1),
        GROUP_THREADS,
        (
            np.uint64(points.address),
            np.int32(points.stride),
            np.uint64(groups.order),
            np.uint64(groups.starts),
            np.uint64(sums),
        ),
        queue.stream,
    )


def parts(n: int) -> int:
    """Return into how many parts ``sum_codewords`` cuts n rows."""
    return -(-n // PART_ROWS)


def sum_codewords(
    queue: Queue, residuals: Matrix, codes: int, books: Books, to: CodewordSums
) -> None:
    """Sum the pieces f32[n, m * s] of residuals by their codes u8[n, m]."""
    entries = books.width << books.bits
    queue.device.launch(
        Kernel("kmeans", "sum_codewords"),
        (-(-entries // WORD_THREADS), books.m, parts(residuals.n)),
        WORD_THREADS,
        (
            np.uint64(residuals.address),
            np.int32(residuals.n),
            np.int32(residuals.stride),
            np.uint64(codes),
            np.int32(books.m),
            np.int32(books.width),
            np.int32(books.bits),
            np.int32(PART_ROWS),
            np.uint64(to.sums),
            np.uint64(to.counts),
        ),
        queue.stream,
    )


def add_parts(queue: Queue, parts: int, of: CodewordSums, books: Books, to: CodewordSums) -> None:
    """Add all parts to totals: sums f64[m, K, s] and counts i64[m, K]."""
    queue.device.launch(
        Kernel("kmeans", "add_parts"),
        (-(-(books.m * books.width << books.bits) // WORD_THREADS), 1, 1),
        WORD_THREADS,
        (
            np.uint64(of.sums),
            np.uint64(of.counts),
            np.int32(parts),
            np.int32(books.m),
            np.int32(books.width),
            np.int32(books.bits),
            np.uint64(to.sums),
            np.uint64(to.counts),
        ),
        queue.stream,
    )
