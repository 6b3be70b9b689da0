"""Memory of the emulated device: host pages that the tests cannot mistake for arrays.

Invariants:

- Fresh memory holds 0xFF bytes (NaN for floats and halves); freed memory holds 0xDD until it goes.
- Freed memory stays mapped while work is queued that may still use it.
"""

from __future__ import annotations

import mmap
import weakref
from bisect import bisect_right
from collections.abc import Callable

import numpy as np

from gpu.arrays import U8
from gpu.errors import IndexFull

#: Larger allocations keep the zero pages of the system: they stand for addresses, not for bytes.
POISONED_BYTES = 64 << 20
_FRESH, _FREED = 0xFF, 0xDD
_GRANULE = 256


class Allocation:
    """One piece of device or pinned memory. ``content`` is all of it, as bytes."""

    def __init__(self, nbytes: int, pinned: bool) -> None:
        self.nbytes = nbytes
        self.pinned = pinned
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        pages = mmap.mmap(-1, max(nbytes, 1), flags=flags)
        self.content: U8 = np.frombuffer(pages, np.uint8)[:nbytes]
        self.address = int(np.frombuffer(pages, np.uint8).ctypes.data)
        self.alive = True
        self._poison(_FRESH)

    def _poison(self, byte: int) -> None:
        if self.nbytes <= POISONED_BYTES:
            self.content.fill(byte)

    def end(self) -> None:
        """Mark it as freed."""
        self.alive = False
        self._poison(_FREED)


class EmulatedBuffer:
    """Device memory, by address only: nothing turns it into an array by accident."""

    def __init__(self, allocation: Allocation, freed: Callable[[Allocation], None]) -> None:
        self._allocation = allocation
        self._finalizer = weakref.finalize(self, freed, allocation)
        self._finalizer.atexit = False

    @property
    def address(self) -> int:
        """Return the address of the first byte."""
        return self._allocation.address

    @property
    def nbytes(self) -> int:
        """Return the size that was asked for."""
        return self._allocation.nbytes

    @property
    def allocation(self) -> Allocation:
        """Return the memory, for the device."""
        return self._allocation


class PinnedHost:
    """Owner of page-locked memory: NumPy keeps it as the base of every array over it."""

    def __init__(self, allocation: Allocation, freed: Callable[[Allocation], None]) -> None:
        shape, address = (allocation.nbytes,), (allocation.address, False)
        self.__array_interface__ = {"shape": shape, "typestr": "|u1", "data": address, "version": 3}
        weakref.finalize(self, freed, allocation).atexit = False


class Memory:
    """What is allocated, what is left, and which allocation an address belongs to."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.used_bytes = 0
        self._starts: list[int] = []
        self._allocations: list[Allocation] = []
        self._quarantine: list[Allocation] = []

    @property
    def living(self) -> list[Allocation]:
        """Return all allocations, by address."""
        return self._allocations

    def allocate(self, nbytes: int) -> Allocation:
        """Take device memory; raises IndexFull beyond the limit."""
        rounded = -(-nbytes // _GRANULE) * _GRANULE
        if self.used_bytes + rounded > self.total_bytes:
            raise IndexFull(
                f"out of device memory: {nbytes} bytes asked for,"
                f" {self.total_bytes - self.used_bytes} of {self.total_bytes} free"
            )
        self.used_bytes += rounded
        return self._enter(Allocation(nbytes, pinned=False))

    def pin(self, nbytes: int) -> Allocation:
        """Take page-locked host memory."""
        return self._enter(Allocation(nbytes, pinned=True))

    def _enter(self, allocation: Allocation) -> Allocation:
        at = bisect_right(self._starts, allocation.address)
        self._starts.insert(at, allocation.address)
        self._allocations.insert(at, allocation)
        return allocation

    def release(self, allocation: Allocation, *, keep: bool) -> None:
        """Give it back; ``keep`` its pages until ``forget``."""
        at = self._allocations.index(allocation)
        del self._starts[at], self._allocations[at]
        if not allocation.pinned:
            self.used_bytes -= -(-allocation.nbytes // _GRANULE) * _GRANULE
        allocation.end()
        if keep:
            self._quarantine.append(allocation)

    def forget(self) -> None:
        """Let the pages of released allocations go."""
        self._quarantine.clear()

    def find(self, address: int) -> Allocation | None:
        """Return the living allocation that holds ``address``."""
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        allocation = self._allocations[at]
        return allocation if address < allocation.address + max(allocation.nbytes, 1) else None
