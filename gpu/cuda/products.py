"""Launches of products.cu: rotations, scores of all lists, nearest centroids."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .device import Kernel
from .layout import METRICS, CodecView
from .scratch import Queue
from .topk import TOP_THREADS, TOP_WARPS

#: Rows and columns of a tile (products.cu).
TILE = 64


class Matrix(NamedTuple):
    """``n`` rows of f32[stride] at an address; zero behind the components that there are."""

    address: int
    n: int
    stride: int


def rotate(queue: Queue, codec: CodecView, plain: int, n: int, to: int) -> None:
    """Turn plain vectors f32[n, plain_stride] into placed ones f32[n, stride]."""
    of = Matrix(plain, n, codec.plain_stride)
    multiply(queue, of, Matrix(codec.rotation, codec.dim, codec.stride), to)


def multiply(queue: Queue, vectors: Matrix, matrix: Matrix, to: int) -> None:
    """Write f32[n, matrix.stride]: ``matrix.n`` components of each vector, times the matrix."""
    queue.device.launch(
        Kernel("products", "rotate"),
        (-(-vectors.n // TILE), -(-matrix.stride // TILE), 1),
        TOP_THREADS,
        (
            np.uint64(vectors.address),
            np.int32(vectors.n),
            np.int32(matrix.n),
            np.int32(vectors.stride),
            np.uint64(matrix.address),
            np.int32(matrix.stride),
            np.uint64(to),
        ),
        queue.stream,
    )


def covariance(queue: Queue, vectors: Matrix, to: int) -> None:
    """Write f64[stride, stride]: the sum of v v^T over all vectors."""
    tiles = -(-vectors.stride // TILE)
    queue.device.launch(
        Kernel("products", "covariance"),
        (tiles, tiles, 1),
        TOP_THREADS,
        (
            np.uint64(vectors.address),
            np.int32(vectors.n),
            np.int32(vectors.stride),
            np.uint64(to),
        ),
        queue.stream,
    )


def half_squares(queue: Queue, vectors: Matrix, to: int) -> None:
    """Write half the squared norms f32[n]."""
    queue.device.launch(
        Kernel("products", "half_squares"),
        (-(-vectors.n // TOP_WARPS), 1, 1),
        TOP_THREADS,
        (
            np.uint64(vectors.address),
            np.int32(vectors.n),
            np.int32(vectors.stride),
            np.uint64(to),
        ),
        queue.stream,
    )


def list_scores(queue: Queue, codec: CodecView, placed: int, n: int, halves: int, to: int) -> None:
    """Write scores f32[n, L]: ``halves`` of the centroids (not for ip) minus products."""
    queue.device.launch(
        Kernel("products", "list_scores"),
        (-(-n // TILE), -(-codec.nlist // TILE), 1),
        TOP_THREADS,
        (
            np.uint64(placed),
            np.int32(n),
            np.int32(codec.stride),
            np.uint64(codec.centroids),
            np.int32(codec.nlist),
            np.uint64(0 if codec.metric == METRICS["ip"] else halves),
            np.uint64(to),
        ),
        queue.stream,
    )


def nearest(
    queue: Queue, points: Matrix, centroids: Matrix, halves: int, to: tuple[int, int]
) -> None:
    """Write numbers i32[n] of the nearest centroids and half their squared distances f32[n]."""
    numbers, values = to
    queue.device.launch(
        Kernel("products", "nearest"),
        (-(-points.n // TILE), 1, 1),
        TOP_THREADS,
        (
            np.uint64(points.address),
            np.int32(points.n),
            np.int32(points.stride),
            np.uint64(centroids.address),
            np.int32(centroids.n),
            np.uint64(halves),
            np.uint64(numbers),
            np.uint64(values),
        ),
        queue.stream,
    )
