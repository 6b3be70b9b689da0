"""Every kernel compiled, and one small search run, so that no search waits for either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from gpu.backend import Depth
from gpu.params import IndexParams
from gpu.rows import Rows
from gpu.smallest import DIM, LISTS, ROWS, smallest_codec, smallest_contents

from .device import Kernel
from .instances import INSTANCES, names_of

if TYPE_CHECKING:
    from gpu.cuda_backend import CudaBackend

#: The kernel that compiles fastest: it tells whether there is a compiler at all.
SMALLEST = Kernel("tables", "make_tables")


@runtime_checkable
class Preparing(Protocol):
    """A device that can compile a kernel without running it."""

    def prepare(self, kernel: Kernel) -> None:
        """Compile and load; raise BackendError."""
        ...


def run_kernels(backend: CudaBackend) -> None:
    """Compile all modules, or take them from the cache, and search once."""
    device = backend.device
    if isinstance(device, Preparing):
        for stem in INSTANCES:
            for name in names_of(stem, device.compute_capability):
                device.prepare(Kernel(stem, name))
    rows = Rows(IndexParams(dim=DIM, metric="l2"), backend.raw_memory)
    rows.append(np.eye(ROWS, DIM, dtype=np.float32))
    lists = backend.open_lists(smallest_codec()).append(smallest_contents())
    queries, allowed = np.ones((2, DIM), np.float32), np.full(4, 0xFF, np.uint8)
    backend.search_lists(lists, rows, queries, Depth(2, LISTS, 4), allowed)
    backend.exact(rows, queries, 2, range(ROWS), allowed)
