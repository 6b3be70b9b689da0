"""Launches of kmeans.cu: means of groups, for k-means and for codebooks. The same each time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .device import Kernel
from .encode import Books
from .products import Matrix
from .scratch import Queue

#: Threads of the kernels (kmeans.cu).
GROUP_THREADS, WORD_THREADS = 128, 256
#: Rows of a part: some 1,000 blocks for a training sample, and few parts to add up.
PART_ROWS = 8192


class Groups(NamedTuple):
    """Points by group: ``order`` i32[n] and ``starts`` i32[n_groups + 1] at addresses."""

    n_groups: int
    order: int
    starts: int


class CodewordSums(NamedTuple):
    """Addresses of sums f64[parts, m, s, K] and counts i32[parts, m, K]; the host adds parts."""

    sums: int
    counts: int


def sum_groups(queue: Queue, points: Matrix, groups: Groups, sums: int) -> None:
    """Write sums f64[groups, stride] of the points of each group, added in ``order``."""
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


def means(queue: Queue, groups: Groups, sums: int, centroids: Matrix) -> None:
    """Replace centroids f32[groups, stride] by means; those of empty groups stay."""
    items = centroids.n * centroids.stride
    queue.device.launch(
        Kernel("kmeans", "means"),
        (-(-items // GROUP_THREADS), 1, 1),
        GROUP_THREADS,
        (
            np.uint64(sums),
            np.uint64(groups.starts),
            np.int32(centroids.n),
            np.int32(centroids.stride),
            np.uint64(centroids.address),
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
