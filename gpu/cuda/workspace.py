"""What one search needs for a moment: a stream, device memory, page-locked memory in and out.

Invariants:

- One thread uses a workspace at a time; its memory only grows, so a warm one allocates nothing.
- A workspace is used again only when its stream has nothing left to do. One whose stream fails is
  thrown away.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np

from gpu.arrays import U8, AnyArray
from gpu.errors import BackendError, EngineError, IndexFull

from .device import Buffer, Device
from .graphs import Graphs

ALIGNMENT = 256
#: Memory grows by half at least, so that slowly rising sizes do not allocate each time.
GROWTH = 1.5
#: Counters of 1,024 queries.
FIRST_ZEROS_BYTES = 4 << 10
#: Workspaces kept for the next searches; more threads than this make theirs anew.
MOST_KEPT = 16


class NoRoom(BackendError):
    """The card has no memory left for a search as large as this one."""


class Parts:
    """Offsets of several arrays in one allocation, each aligned to 256 bytes."""

    def __init__(self) -> None:
        self.nbytes = 0

    def add(self, nbytes: int) -> int:
        """Return the offset of the next ``nbytes``."""
        offset = self.nbytes
        self.nbytes += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return offset


class Workspace:
    """Memory and a stream of one search at a time."""

    def __init__(self, device: Device) -> None:
        self.device, self.stream = device, device.stream()
        self._scratch: Buffer | None = None
        self._pinned: U8 = np.empty(0, np.uint8)
        self._zeros: Buffer | None = None
        self.graphs = Graphs(device, self.stream)

    def scratch(self, nbytes: int) -> Buffer:
        """Return device memory of at least ``nbytes``; what it held before is lost.

        Raise NoRoom when the device has no memory left for it.
        """
        if self._scratch is None or self._scratch.nbytes < nbytes:
            held = 0 if self._scratch is None else self._scratch.nbytes
            self._scratch = None  # freed first: the peak is the new one alone
            self._scratch = self._allocated(max(nbytes, int(GROWTH * held)), nbytes)
        return self._scratch

    def pinned(self, nbytes: int) -> U8:
        """Return page-locked host memory u8[nbytes], aligned to 64."""
        if len(self._pinned) < nbytes:
            size = max(nbytes, int(GROWTH * len(self._pinned)))
            self._pinned = self.device.pinned((size,), np.dtype(np.uint8))
        return self._pinned[:nbytes]

    def zeros(self, nbytes: int) -> Buffer:
        """Return device memory of zeros; whoever uses it leaves zeros behind."""
        if self._zeros is None or self._zeros.nbytes < nbytes:
            self._zeros = None
            zeros = self._allocated(max(nbytes, FIRST_ZEROS_BYTES), nbytes)
            self.device.fill(zeros, 0, zeros.nbytes, 0, self.stream)
            self._zeros = zeros
        return self._zeros

    def forget_zeros(self) -> None:
        """Have them made anew: work that was cut short may have left something else."""
        self._zeros = None
        self.graphs.clear()

    def held(self, nbytes: int) -> Buffer:
        """Return device memory that lives as long as the caller holds it; raise NoRoom."""
        return self._allocated(max(1, nbytes), max(1, nbytes))

    def _allocated(self, wished: int, needed: int) -> Buffer:
        try:
            return self.device.empty(wished)
        except IndexFull:
            pass
        try:
            return self.device.empty(needed)
        except IndexFull as error:
            raise NoRoom(
                f"the card has no memory left for a search that takes {needed} bytes; "
                "lower server.device_memory_limit_bytes or stop what else uses the card"
            ) from error


class Workspaces:
    """Those that no search uses at the moment."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._idle: list[Workspace] = []
        self._lock = Lock()

    @contextmanager
    def one(self) -> Iterator[Workspace]:
        """Lend a workspace; when the block is left its stream has nothing to do."""
        with self._lock:
            space = self._idle.pop() if self._idle else None
        space = space or Workspace(self._device)
        try:
            yield space
        except BaseException:
            self._settle(space)
            raise
        self._keep(space)

    def _settle(self, space: Workspace) -> None:
        """Wait for what a failed search has queued: buffers it used are about to be freed."""
        try:
            space.stream.synchronize()
        except EngineError:
            return
        space.forget_zeros()
        self._keep(space)

    def _keep(self, space: Workspace) -> None:
        with self._lock:
            if len(self._idle) < MOST_KEPT:
                self._idle.append(space)


def view_of(memory: U8, offset: int, shape: tuple[int, ...], dtype: type[np.generic]) -> AnyArray:
    """Return an array of ``shape`` that lies at ``offset`` of ``memory`` u8[...]."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return memory[offset : offset + size].view(dtype).reshape(shape)
