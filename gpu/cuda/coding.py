"""Rows to lists, codes, biases and gains on the device, in one trip up and down.

place | rotate | nearest | residuals | encode | factors
"""

from __future__ import annotations

import numpy as np

from gpu.arrays import F32
from gpu.codec import Codec
from gpu.encoding import CodedRows

from .block import Block, Output
from .encode import Books, Encoded, encode, factors, residuals
from .place import place
from .prepared import PreparedCodec
from .products import Matrix, nearest, rotate
from .teaching import in_pieces
from .workspace import Parts, Workspace


def code_block(space: Workspace, codec: Codec, prepared: PreparedCodec, vectors: F32) -> CodedRows:
    """Return what lists hold of f32[n, d]."""
    pieces: list[CodedRows] = []
    in_pieces(
        len(vectors),
        prepared.view.stride,
        lambda part: pieces.append(_code_piece(space, codec, prepared, vectors[part])),
    )
    return CodedRows(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True)))


def _code_piece(space: Workspace, codec: Codec, prepared: PreparedCodec, vectors: F32) -> CodedRows:
    view, n, parts = prepared.view, len(vectors), Parts()
    near, values = parts.add(4 * n), parts.add(4 * n)
    plain, left = parts.add(4 * n * view.plain_stride), parts.add(4 * n * view.stride)
    turned = parts.add(4 * n * view.stride) if view.rotation else plain
    outputs = (
        Output((n,), np.int32),
        Output((n, view.m), np.uint8),
        Output((n,), np.float16),
        Output((n,), np.float16),
        Output((n,), np.int32),
        Output((n,), np.float32),
    )
    block = Block(space, (np.ascontiguousarray(vectors, np.float32),), outputs, parts.nbytes)
    at, queue = block.scratch, block.queue
    rows, lists = Matrix(at + turned, n, view.stride), block.output(0)
    block.send()
    place(queue, view, block.input(0), n, (at + plain, at + near), rows=True)
    if view.rotation:
        rotate(queue, view, at + plain, n, rows.address)
    centroids = Matrix(view.centroids, view.nlist, view.stride)
    nearest(queue, rows, centroids, prepared.halves, (lists, at + values))
    residuals(queue, view, rows, lists, at + left)
    encoded = Encoded(*(block.output(number) for number in range(1, 6)))
    books = Books(view.codebooks, view.m, view.width, view.bits)
    encode(queue, Matrix(at + left, n, view.stride), books, encoded.codes)
    factors(queue, view, rows, (at + left, lists), encoded, use_gain=codec.use_gain)
    block.receive()
    list_ids, codes, bias, gain, fits, squares = block.wait()
    return CodedRows(list_ids, codes, bias, gain, fits.astype(np.bool_), squares)
