"""Training on the device: nearest centroids and codewords, sums, rotations, covariances.

Rows go up in pieces; where a piece finds no room it is halved, down to ``FEWEST_ROWS``. Sums stay
on the card from piece to piece and are added in the order of the rows, in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpu.arrays import F32, F64, I32, U8, AnyArray
from gpu.backend import ClusterStep, CodewordStep
from gpu.codec import half_squares

from . import kmeans
from .block import Block, Output
from .device import Buffer
from .encode import Books, encode
from .kmeans import CodewordSums, Grouping, Groups
from .products import Matrix, covariance, multiply, nearest
from .scanning import as_placed
from .workspace import NoRoom, Parts, Workspace

#: Components of the rows that one round trip takes: 64 MiB of float32.
BLOCK_COMPONENTS = 1 << 24
#: A piece of fewer rows than this would not fill a card.
FEWEST_ROWS = 1024


def in_pieces(n: int, stride: int, run: Callable[[slice], None]) -> None:
    """Run rows [0, n) of ``stride`` floats in pieces; halve them where the card has no room."""
    first, step = 0, max(1, BLOCK_COMPONENTS // stride)
    while first < n:
        part = slice(first, min(n, first + step))
        try:
            run(part)
        except NoRoom:
            step = (part.stop - first) // 2
            if step < FEWEST_ROWS:
                raise
            continue
        first = part.stop


def nearest_block(space: Workspace, points: F32, centroids: F32) -> tuple[I32, F32]:
    """Return the nearest of f32[L, d] to each of f32[n, d], and half its squared distance."""
    lists = _Lists(space, centroids)
    numbers, values = np.empty(len(points), np.int32), np.empty(len(points), np.float32)

    def run(part: slice) -> None:
        rows = as_placed(points[part])
        block = Block(space, (rows,), _nearest_outputs(len(rows)), 0)
        block.send()
        lists.nearest(block, rows)
        block.receive()
        numbers[part], values[part] = block.wait()

    in_pieces(len(points), lists.stride, run)
    return numbers, values


def cluster_block(space: Workspace, points: F32, centroids: F32) -> ClusterStep:
    """Return the nearest of f32[L, d] to each of f32[n, d], and the sums by list."""
    lists = _Lists(space, centroids)
    sums = _zeros(space, 8 * lists.n * lists.stride)
    numbers, values = np.empty(len(points), np.int32), np.empty(len(points), np.float32)

    def run(part: slice) -> None:
        rows = as_placed(points[part])
        numbers[part], values[part] = _cluster_piece(space, rows, lists, sums)

    in_pieces(len(points), lists.stride, run)
    total = _fetched(space, sums, 0, (lists.n, lists.stride), np.float64)
    counts = np.bincount(numbers, minlength=lists.n)
    return ClusterStep(numbers, values, total[:, : points.shape[1]], counts)


def _cluster_piece(
    space: Workspace, rows: F32, lists: _Lists, sums: Buffer
) -> tuple[AnyArray, AnyArray]:
    n, each = len(rows), kmeans.order_rows(len(rows), lists.n)
    pieces, parts = -(-n // each), Parts()
    members = parts.add(4 * pieces * lists.n)
    sizes, starts, order = parts.add(4 * lists.n), parts.add(4 * (lists.n + 1)), parts.add(4 * n)
    block = Block(space, (rows,), _nearest_outputs(n), parts.nbytes)
    at = block.scratch
    groups = Groups(lists.n, at + order, at + starts)
    room = Grouping(pieces, each, at + members, at + sizes)
    block.send()
    lists.nearest(block, rows)
    kmeans.group_points(block.queue, block.output(0), n, room, groups)
    kmeans.sum_groups(block.queue, Matrix(block.input(0), *rows.shape), groups, sums.address)
    block.receive()
    numbers, values = block.wait()
    return numbers, values


class _Lists:
    """Centroids f32[L, stride] on the card, with half their squares."""

    def __init__(self, space: Workspace, centroids: F32) -> None:
        self._there = as_placed(centroids)
        self._squares = half_squares(self._there).astype(np.float32)
        self.n, self.stride = self._there.shape
        parts = Parts()
        places = parts.add(self._there.nbytes), parts.add(self._squares.nbytes)
        self._held = space.held(parts.nbytes)
        for array, place in zip((self._there, self._squares), places, strict=True):
            space.device.upload(array, self._held, place, space.stream)
        self._centroids, self._halves = (self._held.address + place for place in places)

    def nearest(self, block: Block, rows: F32) -> None:
        """Write the outputs of ``block`` from its first input, ``rows``."""
        nearest(
            block.queue,
            Matrix(block.input(0), *rows.shape),
            Matrix(self._centroids, self.n, self.stride),
            self._halves,
            (block.output(0), block.output(1)),
        )


def _nearest_outputs(n: int) -> tuple[Output, Output]:
    return Output((n,), np.int32), Output((n,), np.float32)


def encode_block(space: Workspace, residuals: F32, codebooks: F32) -> U8:
    """Return the nearest codewords of f32[n, m * s] in f32[m, K, s] as u8[n, m]."""
    m, size, width = codebooks.shape
    turned = np.ascontiguousarray(codebooks.transpose(0, 2, 1))
    codes = np.empty((len(residuals), m), np.uint8)

    def run(part: slice) -> None:
        rows = as_placed(residuals[part])
        block = Block(space, (rows, turned), (Output((len(rows), m), np.uint8),), 0)
        books = Books(block.input(1), m, width, size.bit_length() - 1)
        block.send()
        encode(block.queue, Matrix(block.input(0), *rows.shape), books, block.output(0))
        block.receive()
        (codes[part],) = block.wait()

    in_pieces(len(residuals), residuals.shape[1], run)
    return codes


def codewords_block(space: Workspace, residuals: F32, codebooks: F32) -> CodewordStep:
    """Return the sums of the pieces of f32[n, m * s] by their codeword of f32[m, K, s]."""
    m, size, _ = codebooks.shape
    turned = np.ascontiguousarray(codebooks.transpose(0, 2, 1))
    parts = Parts()
    sums_at, counts_at = parts.add(8 * codebooks.size), parts.add(8 * m * size)
    held = _zeros(space, parts.nbytes)
    totals = CodewordSums(held.address + sums_at, held.address + counts_at)

    def run(part: slice) -> None:
        _sum_piece(space, as_placed(residuals[part]), turned, totals)

    in_pieces(len(residuals), residuals.shape[1], run)
    sums = _fetched(space, held, sums_at, codebooks.shape, np.float64)
    return CodewordStep(sums, _fetched(space, held, counts_at, (m, size), np.int64))


def _sum_piece(space: Workspace, rows: F32, turned: F32, totals: CodewordSums) -> None:
    """Encode a piece with codebooks f32[m, s, K] and add its sums to ``totals``."""
    m, width, size = turned.shape
    count, parts = kmeans.parts(len(rows)), Parts()
    codes = parts.add(len(rows) * m)
    sums, counts = parts.add(8 * count * turned.size), parts.add(4 * count * m * size)
    block = Block(space, (rows, turned), (), parts.nbytes)
    at, there = block.scratch, Matrix(block.input(0), *rows.shape)
    books = Books(block.input(1), m, width, size.bit_length() - 1)
    own = CodewordSums(at + sums, at + counts)
    block.send()
    encode(block.queue, there, books, at + codes)
    kmeans.sum_codewords(block.queue, there, at + codes, books, own)
    kmeans.add_parts(block.queue, count, own, books, totals)
    block.wait()


def rotate_block(space: Workspace, vectors: F32, rotation: F32) -> F32:
    """Return f32[n, d] times f32[d, D]."""
    matrix = as_placed(rotation)
    held = space.held(matrix.nbytes)
    space.device.upload(matrix, held, 0, space.stream)
    turned = np.empty((len(vectors), rotation.shape[1]), np.float32)

    def run(part: slice) -> None:
        rows = as_placed(vectors[part])
        block = Block(space, (rows,), (Output((len(rows), matrix.shape[1]), np.float32),), 0)
        block.send()
        of = Matrix(block.input(0), *rows.shape)
        multiply(block.queue, of, Matrix(held.address, *matrix.shape), block.output(0))
        block.receive()
        turned[part] = block.wait()[0][:, : rotation.shape[1]]

    in_pieces(len(vectors), max(matrix.shape[1], vectors.shape[1]), run)
    return turned


def covariance_block(space: Workspace, vectors: F32) -> F64:
    """Return the sum of v v^T over the rows of f32[n, d], f64[d, d]."""
    dim = vectors.shape[1]
    total = np.zeros((dim, dim), np.float64)

    def run(part: slice) -> None:
        rows = as_placed(vectors[part])
        stride = rows.shape[1]
        block = Block(space, (rows,), (Output((stride, stride), np.float64),), 0)
        block.send()
        covariance(block.queue, Matrix(block.input(0), *rows.shape), block.output(0))
        block.receive()
        total[...] += block.wait()[0][:dim, :dim]

    in_pieces(len(vectors), dim, run)
    return total


def _zeros(space: Workspace, nbytes: int) -> Buffer:
    held = space.held(nbytes)
    space.device.fill(held, 0, nbytes, 0, space.stream)
    return held


def _fetched(
    space: Workspace, held: Buffer, offset: int, shape: tuple[int, ...], dtype: type[np.generic]
) -> AnyArray:
    host: AnyArray = np.empty(shape, dtype)
    space.device.download(held, offset, host.reshape(-1), space.stream)
    space.stream.synchronize()
    return host
