"""Who may allocate device memory, and how much: asked before anything is allocated.

Invariants:

- What stays (pages, raw rows, codecs) never takes the reserve, out of which searches get what they
  need for a moment. So an index that fills the card still answers.
- A refusal changes nothing.
- What an index cannot do without (``need``) is refused only after ``give_way`` was asked, which
  lets go of what it can do without (raw rows).
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from gpu.errors import IndexFull

from .device import Buffer, Device

#: Kept free for searches: their tables, candidates and bitmaps. 64 MiB is a batch of 1,024 queries
#: with 8-bit tables of 64 sub-quantizers; a sixteenth of a small limit has to do there.
RESERVE_BYTES = 64 << 20
RESERVE_SHARE = 1 / 16


class Budget:
    """Admission to one device's memory. Every method may be called from any thread."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.reserve_bytes = min(RESERVE_BYTES, int(RESERVE_SHARE * device.memory().free_bytes))
        self.give_way: Callable[[int], None] = lambda nbytes: None
        self._lock = Lock()

    @property
    def left_bytes(self) -> int:
        """Bytes that may still be allocated for what stays."""
        return max(0, self.device.memory().free_bytes - self.reserve_bytes)

    def admit(self, nbytes: int, what: str) -> None:
        """Raise IndexFull unless ``nbytes`` for ``what`` fit beside the reserve."""
        left = self.left_bytes
        if nbytes > left:
            raise IndexFull(
                f"{what} need {_mib(nbytes)} of device memory and {_mib(left)} are left; raise "
                "server.device_memory_limit_bytes, or take a larger card (vecmirror plan)"
            )

    def need(self, nbytes: int, what: str) -> Buffer:
        """Allocate as ``empty`` does, if need be in place of what can be done without."""
        try:
            return self.empty(nbytes, what)
        except IndexFull:
            self.give_way(nbytes)
        return self.empty(nbytes, what)

    def empty(self, nbytes: int, what: str) -> Buffer:
        """Allocate what stays; raise IndexFull if it does not fit."""
        with self._lock:
            self.admit(nbytes, what)
            return self.device.empty(nbytes)


def _mib(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):,.1f} MiB"
