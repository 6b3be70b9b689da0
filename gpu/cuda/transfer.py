"""Pages between device and host, neighbouring ones together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from gpu.arrays import U8

from .slab import U64, Slab
from .workspace import Workspace


def fetch(slab: Slab, addresses: U64, space: Workspace) -> U8:
    """Return the pages at ``addresses`` as u8[n, page_bytes]."""
    order = np.argsort(addresses)
    sorted_pages = np.empty((len(addresses), slab.page_bytes), np.uint8)
    for start, end in _runs(addresses[order], slab.page_bytes):
        first = start
        while first < end:  # neighbours may lie in two allocations
            buffer, offset = slab.located(int(addresses[order[first]]))
            stop = min(end, first + (buffer.nbytes - offset) // slab.page_bytes)
            space.device.download(buffer, offset, sorted_pages[first:stop], space.stream)
            first = stop
    space.stream.synchronize()
    pages = np.empty_like(sorted_pages)
    pages[order] = sorted_pages
    return pages


def _runs(addresses: U64, page_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield [first, end) of ascending addresses that follow each other without a gap."""
    breaks = np.flatnonzero(np.diff(addresses) != np.uint64(page_bytes)) + 1
    edges = [0, *breaks.tolist(), len(addresses)]
    yield from pairwise(edges)
