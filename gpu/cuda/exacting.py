"""Exact searches and exact distances on the device, one block of queries at a time."""

from __future__ import annotations

import numpy as np

from gpu.arrays import F32, I64, AnyArray
from gpu.hits import SearchResult

from .block import Block, Output
from .device import Buffer
from .exact import Asked, ExactScratch, ExactShape, Where, exact
from .rerank import Candidates, Hits, distances
from .rows import VisibleRows
from .scratch import Queue
from .workspace import Workspace


def exact_block(
    space: Workspace,
    visible: VisibleRows,
    queries: F32,
    k: int,
    where: range | I64,
    allowed: Buffer | None,
) -> SearchResult:
    """Return the k nearest rows of ``where``; at most ``MOST_RESULTS``."""
    n = len(queries)
    shape = ExactShape.of(Queue(space.device, space.stream), n, k, len(where))
    given = None if isinstance(where, range) else np.asarray(where, np.int32)
    inputs: tuple[AnyArray, ...] = (queries,) if given is None else (queries, given)
    outputs = (Output((n, k), np.int64), Output((n, k), np.float32))
    block = Block(space, inputs, outputs, shape.run_bytes, 4 * n)
    if isinstance(where, range):
        place = Where(len(where), first=where.start)
    else:
        place = Where(len(where), ids=block.input(1))
    block.send()
    exact(
        block.queue,
        visible.view,
        Asked(block.input(0), 0 if allowed is None else allowed.address),
        place,
        shape,
        ExactScratch(block.scratch, block.zeros),
        Hits(block.output(0), block.output(1)),
    )
    block.receive()
    ids, found = block.wait()
    return SearchResult(ids, found)


def distances_block(space: Workspace, visible: VisibleRows, queries: F32, row_ids: I64) -> F32:
    """Return exact distances f32[q, r] to ``row_ids`` i64[q, r]; +inf for id -1."""
    inputs = (np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(row_ids))
    block = Block(space, inputs, (Output(row_ids.shape, np.float32),), 0)
    candidates = Candidates(block.input(1), *row_ids.shape)
    block.send()
    distances(block.queue, visible.view, block.input(0), candidates, block.output(0))
    block.receive()
    (found,) = block.wait()
    return found
