"""What the CUDA engine needs of a device. CuPy's is the real one; tests run the emulator's.

Invariants:

- Work of one stream runs in order; nothing is promised between streams but by ``Event``.
- A buffer may be freed, and a host array read, only when the work that uses it is known to be done.
- Nothing here is made at import time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from gpu.arrays import AnyArray


@dataclass(frozen=True, slots=True)
class Kernel:
    """One instance of a kernel: ``kernels/<stem>.cu``, and its name as C++ writes it.

    ``name`` may have template arguments: ``scan_slices<32, true>``.
    """

    stem: str
    name: str


class MemoryInfo(NamedTuple):
    """Bytes that can still be allocated, and bytes that the device has."""

    free_bytes: int
    total_bytes: int


class Buffer(Protocol):
    """Device memory. ``address`` is its first byte, aligned to 256."""

    @property
    def address(self) -> int:
        """The device address."""
        ...

    @property
    def nbytes(self) -> int:
        """Its size."""
        ...


class Event(Protocol):
    """A point in the work of a stream."""

    def wait(self) -> None:
        """Block until the device has reached it."""
        ...


class Stream(Protocol):
    """A queue of work. One thread uses it at a time."""

    def synchronize(self) -> None:
        """Block until its work is done; raise BackendError for what went wrong in it."""
        ...

    def record(self) -> Event:
        """Mark the present end of its work."""
        ...

    def wait_for(self, event: Event) -> None:
        """Let later work of this stream start only when ``event`` is reached."""
        ...


#: What a kernel takes: sized NumPy scalars by value, buffers and addresses as pointers.
Argument = np.generic | Buffer


class Device(Protocol):
    """Memory, copies and launches. All methods may be called from several threads.

    Copies and launches are queued on ``stream`` and return at once; a host array must be
    ``pinned`` for a copy to overlap, and must live until the stream has passed it. All raise
    BackendError; running out of memory raises IndexFull.
    """

    @property
    def name(self) -> str:
        """What the driver calls the card."""
        ...

    @property
    def compute_capability(self) -> int:
        """70 for sm_70, 120 for sm_120."""
        ...

    @property
    def multiprocessors(self) -> int:
        """Number of SMs: what a launch is spread over."""
        ...

    @property
    def shared_bytes(self) -> int:
        """Most shared memory of one block, opted in."""
        ...

    def memory(self) -> MemoryInfo:
        """Return what is free and what there is."""
        ...

    def stream(self) -> Stream:
        """Make a stream that does not synchronise with the default one."""
        ...

    def empty(self, nbytes: int) -> Buffer:
        """Allocate; freed when the last reference goes."""
        ...

    def pinned(self, shape: Sequence[int], dtype: np.dtype[np.generic]) -> AnyArray:
        """Allocate page-locked host memory that the device can read."""
        ...

    def upload(self, host: AnyArray, to: Buffer, offset_bytes: int, stream: Stream) -> None:
        """Copy a contiguous host array to ``offset_bytes`` of a buffer."""
        ...

    def download(self, source: Buffer, offset_bytes: int, to: AnyArray, stream: Stream) -> None:
        """Copy from ``offset_bytes`` of a buffer into a contiguous host array."""
        ...

    def copy(
        self,
        source: Buffer,
        source_offset_bytes: int,
        to: Buffer,
        to_offset_bytes: int,
        nbytes: int,
        stream: Stream,
    ) -> None:
        """Copy within the device."""
        ...

    def fill(
        self, buffer: Buffer, offset_bytes: int, nbytes: int, byte: int, stream: Stream
    ) -> None:
        """Set bytes."""
        ...

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: int,
        arguments: Sequence[Argument],
        stream: Stream,
        shared_bytes: int = 0,
    ) -> None:
        """Run ``kernel`` with ``block`` threads a block. Compiles it first if it is new."""
        ...


def address_of(buffer: Buffer, offset_bytes: int = 0) -> np.uint64:
    """Return a pointer argument into a buffer."""
    return np.uint64(buffer.address + offset_bytes)
