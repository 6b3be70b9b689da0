"""Memory that has been touched before, so that a figure is not the host's page faults."""

from __future__ import annotations

import mmap
import os

#: Of the free memory, what may be touched.
MOST_OF_FREE = 0.5


def touch_memory(wanted_bytes: int) -> int:
    """Write to each page of ``wanted_bytes`` once and give them back; return how many were.

    On a virtual machine the first write to a page after boot goes through the host: 2 to 3 seconds
    a gigabyte were seen, ten times as much as later. A service pays that once in its life, a
    benchmark on a fresh machine with each row.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size = min(wanted_bytes, int(free * MOST_OF_FREE))
    size -= size % mmap.PAGESIZE
    if size <= 0:
        return 0
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        for offset in range(0, size, mmap.PAGESIZE):
            pages[offset] = 1
    return size
