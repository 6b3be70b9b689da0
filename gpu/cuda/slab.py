"""Slab: pages of one size for the lists of one codec, out of a few large allocations.

Invariants:

- A page is free or taken, never both; taking pages is all or nothing.
- Nothing is ever moved: growth adds an extent, so addresses hold for the life of a page.
- An extent goes back to the device when its last page is given back.
- Whoever gives a page back knows that no kernel reads it any more.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from gpu.errors import BackendError, IndexFull

from .device import Buffer
from .memory import Budget

U64 = NDArray[np.uint64]

#: A slab grows by this share of itself: few extents, little unused.
GROWTH = 0.25
#: The smallest extent. A card gives memory in pieces of 2 MiB in any case.
SMALLEST_EXTENT_BYTES = 1 << 20


class _Extent:
    """One allocation; ``free`` i64 is a stack of page numbers, lowest on top at first."""

    def __init__(self, buffer: Buffer, pages: int) -> None:
        self.buffer, self.pages = buffer, pages
        self.free = np.arange(pages)[::-1].copy()
        self.n_free = pages

    def __lt__(self, other: _Extent) -> bool:
        return self.buffer.address < other.buffer.address


class Slab:
    """Pages of ``page_bytes`` each. Every method may be called from any thread."""

    def __init__(self, budget: Budget, page_bytes: int) -> None:
        self.page_bytes = page_bytes
        self._budget = budget
        self._extents: list[_Extent] = []
        self._lock = Lock()

    @property
    def pages(self) -> int:
        """Pages there are, free or taken."""
        return sum(extent.pages for extent in self._extents)

    @property
    def free_pages(self) -> int:
        """Pages that can be taken without asking the device."""
        return sum(extent.n_free for extent in self._extents)

    @property
    def held_bytes(self) -> int:
        """Bytes of the device that the slab holds."""
        return self.pages * self.page_bytes

    def take(self, count: int) -> U64:
        """Return the addresses of ``count`` pages; raise IndexFull and take none."""
        with self._lock:
            missing = count - self.free_pages
            if missing > 0:
                self._grow(missing)
            taken = np.empty(count, np.uint64)
            filled = 0
            for extent in self._extents:
                part = min(extent.n_free, count - filled)
                numbers = extent.free[extent.n_free - part : extent.n_free][::-1]
                extent.n_free -= part
                taken[filled : filled + part] = self._addresses(extent, numbers)
                filled += part
            return taken

    def give(self, addresses: U64) -> None:
        """Take pages back."""
        with self._lock:
            starts = [extent.buffer.address for extent in self._extents]
            owner = np.searchsorted(np.array(starts, np.uint64), addresses, side="right") - 1
            for number in np.unique(owner)[::-1].tolist():
                if number < 0:
                    raise BackendError("a page that is none of this slab's was given back")
                self._give(self._extents[number], addresses[owner == number])

    def located(self, address: int) -> tuple[Buffer, int]:
        """Return the allocation that a taken page lies in, and its offset there."""
        with self._lock:
            starts = [extent.buffer.address for extent in self._extents]
            buffer = self._extents[bisect_right(starts, address) - 1].buffer
        return buffer, address - buffer.address

    def _give(self, extent: _Extent, addresses: U64) -> None:
        numbers = (addresses - np.uint64(extent.buffer.address)) // np.uint64(self.page_bytes)
        end = extent.n_free + len(numbers)
        if end > extent.pages or numbers.max(initial=0) >= extent.pages:
            raise BackendError("a page was given back that was not taken")
        extent.free[extent.n_free : end] = numbers[::-1]
        extent.n_free = end
        if end == extent.pages:
            self._extents.remove(extent)

    def _grow(self, missing: int) -> None:
        """Add an extent: some spare pages if they fit, else what is missing."""
        least = SMALLEST_EXTENT_BYTES // self.page_bytes
        wished = max(missing, int(GROWTH * self.pages), least)
        try:
            buffer = self._budget.empty(wished * self.page_bytes, "list pages")
        except IndexFull:
            wished = missing
            buffer = self._budget.need(wished * self.page_bytes, "list pages")
        insort(self._extents, _Extent(buffer, wished))

    def _addresses(self, extent: _Extent, numbers: NDArray[np.int64]) -> U64:
        offsets = numbers.astype(np.uint64) * np.uint64(self.page_bytes)
        return np.uint64(extent.buffer.address) + offsets
