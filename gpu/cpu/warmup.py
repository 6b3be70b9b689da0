"""Compile every kernel, so that no search waits for it."""

from __future__ import annotations

from functools import cache

import numpy as np

from gpu.backend import Depth, Filtered
from gpu.codec import Codec
from gpu.cpu_backend import CpuBackend
from gpu.encoding import ListContents
from gpu.params import IndexParams
from gpu.rows import Rows

from .lists import BlockLists
from .matches import ListNumbers

#: A codec of the smallest shape; kernels are compiled once for all shapes.
DIM, LISTS, ROWS = 8, 4, 8


@cache
def run_kernels() -> None:
    """Run each kernel once on a few rows: that compiles it, or loads it from the cache.

    Once in a process: later calls do nothing.
    """
    backend, codec = CpuBackend(threads=1), _codec()
    rows = Rows(IndexParams(dim=DIM, metric="l2"))
    rows.append(np.eye(ROWS, DIM, dtype=np.float32))
    lists = backend.open_lists(codec).append(_contents())
    lists.contents()
    queries, allowed = np.ones((1, DIM), np.float32), np.full(1, 0xFF, np.uint8)
    probes, constants = backend.choose_lists(codec, codec.place_queries(queries), LISTS)
    backend.scan(lists, queries, probes, constants, allowed, 2)
    found = backend.search_lists(lists, rows, queries, Depth(2, LISTS, 4), allowed)
    backend.distances(rows, queries, found.ids)
    filtered = Filtered(allowed, ROWS, ROWS, ROWS)
    backend.search_matches(lists, rows, queries, Depth(2, 1, 4), filtered)
    assert isinstance(lists, BlockLists)
    ListNumbers().of(lists, ROWS)


def _codec() -> Codec:
    rng = np.random.default_rng(0)
    return Codec(
        metric="l2",
        bits=4,
        scale=1.0,
        query_norm=1.0,
        use_gain=True,
        lut="float32",
        centre=np.zeros(DIM, np.float32),
        rotation=None,
        centroids=rng.normal(size=(LISTS, DIM)).astype(np.float32),
        sigma=np.ones(LISTS, np.float32),
        bias_mean=np.zeros(LISTS, np.float32),
        bias_unit=np.ones(LISTS, np.float32),
        codebooks=rng.normal(size=(DIM // 2, 16, 2)).astype(np.float32),
    )


def _contents() -> ListContents:
    return ListContents(
        np.arange(ROWS, dtype=np.int32) % LISTS,
        np.arange(ROWS, dtype=np.int64),
        np.zeros((ROWS, DIM // 4), np.uint8),
        np.zeros(ROWS, np.float16),
        np.ones(ROWS, np.float16),
    )
