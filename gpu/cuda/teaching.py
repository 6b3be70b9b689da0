"""Nearest centroids and codewords on the device: what training and encoding spend their time on."""

from __future__ import annotations

import numpy as np

from gpu.arrays import F32, I32, U8
from gpu.codec import half_squares

from .block import Block, Output
from .encode import Books, encode
from .products import Matrix, nearest
from .scanning import as_placed
from .workspace import Workspace

#: Components of the rows that one round trip takes: 64 MiB of float32.
BLOCK_COMPONENTS = 1 << 24


def nearest_block(space: Workspace, points: F32, centroids: F32) -> tuple[I32, F32]:
    """Return the nearest of f32[L, d] to each of f32[n, d], and half its squared distance."""
    there = as_placed(centroids)
    halves = half_squares(there).astype(np.float32)
    step = max(1, BLOCK_COMPONENTS // there.shape[1])
    numbers, values = np.empty(len(points), np.int32), np.empty(len(points), np.float32)
    for first in range(0, len(points), step):
        part = slice(first, min(len(points), first + step))
        found = _nearest_part(space, as_placed(points[part]), there, halves)
        numbers[part], values[part] = found
    return numbers, values


def _nearest_part(space: Workspace, points: F32, centroids: F32, halves: F32) -> tuple[I32, F32]:
    n, stride = points.shape
    outputs = (Output((n,), np.int32), Output((n,), np.float32))
    block = Block(space, (points, centroids, halves), outputs, 0)
    block.send()
    nearest(
        block.queue,
        Matrix(block.input(0), n, stride),
        Matrix(block.input(1), len(centroids), stride),
        block.input(2),
        (block.output(0), block.output(1)),
    )
    block.receive()
    numbers, values = block.wait()
    return numbers, values


def encode_block(space: Workspace, residuals: F32, codebooks: F32) -> U8:
    """Return the nearest codewords of f32[n, m * s] in f32[m, K, s] as u8[n, m]."""
    m, size, width = codebooks.shape
    turned = np.ascontiguousarray(codebooks.transpose(0, 2, 1))
    step = max(1, BLOCK_COMPONENTS // residuals.shape[1])
    codes = np.empty((len(residuals), m), np.uint8)
    for first in range(0, len(residuals), step):
        part = slice(first, min(len(residuals), first + step))
        rows = as_placed(residuals[part])
        block = Block(space, (rows, turned), (Output((len(rows), m), np.uint8),), 0)
        books = Books(block.input(1), m, width, size.bit_length() - 1)
        block.send()
        encode(block.queue, Matrix(block.input(0), *rows.shape), books, block.output(0))
        block.receive()
        (codes[part],) = block.wait()
    return codes
