"""Every kernel compiled, and one small search run, so that no search waits for either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from gpu.backend import Depth
from gpu.codec import Codec
from gpu.encoding import ListContents
from gpu.params import IndexParams
from gpu.rows import Rows

from .device import Kernel
from .instances import INSTANCES, names_of

if TYPE_CHECKING:
    from gpu.cuda_backend import CudaBackend

#: A codec of the smallest shape.
DIM, LISTS, ROWS = 8, 4, 8
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
    lists = backend.open_lists(_codec()).append(_contents())
    queries, allowed = np.ones((2, DIM), np.float32), np.full(4, 0xFF, np.uint8)
    backend.search_lists(lists, rows, queries, Depth(2, LISTS, 4), allowed)
    backend.exact(rows, queries, 2, range(ROWS), allowed)


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
