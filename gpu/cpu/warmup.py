"""Compile every kernel, so that no search waits for it."""

from __future__ import annotations

from functools import cache

import numpy as np

from gpu.backend import Depth, Filtered
from gpu.cpu_backend import CpuBackend
from gpu.params import IndexParams
from gpu.rows import Rows
from gpu.smallest import DIM, LISTS, ROWS, smallest_codec, smallest_contents

from .lists import BlockLists
from .matches import ListNumbers, group_by_list


@cache
def run_kernels() -> None:
    """Run each kernel once on a few rows: that compiles it, or loads it from the cache.

    Once in a process: later calls do nothing.
    """
    backend, codec = CpuBackend(threads=1), smallest_codec()
    rows = Rows(IndexParams(dim=DIM, metric="l2"))
    rows.append(np.eye(ROWS, DIM, dtype=np.float32))
    lists = backend.open_lists(codec).append(smallest_contents())
    lists.contents()
    queries, allowed = np.ones((1, DIM), np.float32), np.full(1, 0xFF, np.uint8)
    probes, constants = backend.choose_lists(codec, codec.place_queries(queries), LISTS)
    backend.scan(lists, queries, probes, constants, allowed, 2)
    found = backend.search_lists(lists, rows, queries, Depth(2, LISTS, 4), allowed)
    backend.distances(rows, queries, found.ids)
    filtered = Filtered(allowed, ROWS, ROWS, ROWS)
    backend.search_matches(lists, rows, queries, Depth(2, 1, 4), filtered)
    backend.encode_rows(codec, rows.take(np.arange(ROWS)))
    backend.cluster_step(np.ones((LISTS, DIM), np.float32), codec.centroids)
    backend.codeword_step(np.ones((1, DIM), np.float32), codec.codebooks)
    assert isinstance(lists, BlockLists)
    matches, starts = np.arange(ROWS, dtype=np.int32), np.zeros(LISTS + 2, np.int32)
    group_by_list(matches, ListNumbers().of(lists, ROWS), starts, np.empty_like(matches))
