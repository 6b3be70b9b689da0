"""Launches of encode.cu: placed rows to codes, biases and gains."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu.encoding import (
    LARGEST_GAIN,
    LARGEST_HALF,
    LARGEST_RESIDUAL,
    SMALLEST_GAIN,
    ZERO_RESIDUAL,
)

from .device import Kernel
from .layout import METRICS, CodecView
from .products import Matrix
from .scratch import Queue

THREADS = 256
WARPS = THREADS // 32
MOST_BLOCKS = 1 << 14


class Books(NamedTuple):
    """Codebooks f32[m, s, K] at an address, K = 2^bits."""

    address: int
    m: int
    width: int
    bits: int


class Encoded(NamedTuple):
    """Addresses of what a row becomes.

    ``codes`` u8[n, m], one byte a sub-quantizer; ``bias``, ``gain`` float16[n]; ``fits`` i32[n]: 0
    for rows to set aside; ``squares`` f32[n], the squared distance to the centroid.
    """

    codes: int
    bias: int
    gain: int
    fits: int
    squares: int


def residuals(queue: Queue, codec: CodecView, rows: Matrix, lists: int, to: int) -> None:
    """Write f32[n, stride]: placed rows minus the centroids of ``lists`` i32[n], over sigma."""
    items = rows.n * rows.stride
    queue.device.launch(
        Kernel("encode", "residuals"),
        (max(1, min(-(-items // THREADS), MOST_BLOCKS)), 1, 1),
        THREADS,
        (
            np.uint64(rows.address),
            np.int32(rows.n),
            np.int32(rows.stride),
            np.uint64(lists),
            np.uint64(codec.centroids),
            np.uint64(codec.sigma),
            np.uint64(to),
        ),
        queue.stream,
    )


def encode(queue: Queue, vectors: Matrix, books: Books, codes: int) -> None:
    """Write the nearest codewords u8[n, m] of f32[n, stride], stride at least m * s."""
    queue.device.launch(
        Kernel("encode", "encode"),
        (-(-vectors.n // THREADS), books.m, 1),
        THREADS,
        (
            np.uint64(vectors.address),
            np.int32(vectors.n),
            np.int32(vectors.stride),
            np.uint64(books.address),
            np.int32(books.m),
            np.int32(books.width),
            np.int32(books.bits),
            np.uint64(codes),
        ),
        queue.stream,
    )


def factors(
    queue: Queue,
    codec: CodecView,
    rows: Matrix,
    of: tuple[int, int],
    to: Encoded,
    *,
    use_gain: bool,
) -> None:
    """Write biases, gains and the rest from ``to.codes``; ``of``: residuals and lists i32[n]."""
    left, lists = of
    queue.device.launch(
        Kernel("encode", "factors"),
        (-(-rows.n // WARPS), 1, 1),
        THREADS,
        (
            np.uint64(rows.address),
            np.uint64(left),
            np.int32(rows.n),
            np.int32(rows.stride),
            np.uint64(lists),
            np.uint64(to.codes),
            np.uint64(codec.codebooks),
            np.int32(codec.m),
            np.int32(codec.width),
            np.int32(codec.bits),
            np.uint64(codec.centroids),
            np.uint64(codec.sigma),
            np.uint64(codec.bias_mean),
            np.uint64(codec.bias_unit),
            np.int32(codec.dim),
            np.int32(codec.metric == METRICS["ip"]),
            np.int32(use_gain),
            np.float32(LARGEST_RESIDUAL),
            np.float32(ZERO_RESIDUAL),
            np.float32(SMALLEST_GAIN),
            np.float32(LARGEST_GAIN),
            np.float32(LARGEST_HALF),
            np.uint64(to.bias),
            np.uint64(to.gain),
            np.uint64(to.fits),
            np.uint64(to.squares),
        ),
        queue.stream,
    )
