"""Raw rows where kernels can read them: a copy on the device, or the host's page-locked ones.

Invariants:

- A row is uploaded once, after it has become final; a view never shows a row that has not arrived.
- A view stays good while whoever holds it does: chunks that grew are copied, not moved.
- Where the rows do not fit, there is no view, the memory is given back, and the CPU re-ranks.
- Rows are brought up whole or not at all: nothing is uploaded that the budget has no room for.
- Lists come first: raw rows give way where pages or a codec would find no room.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Lock
from weakref import WeakKeyDictionary

import numpy as np

from gpu.arrays import AnyArray
from gpu.errors import IndexFull
from gpu.rows import Rows

from .device import Buffer, Device, Stream
from .layout import METRICS, RowsView
from .memory import Budget
from .options import RawLocation

#: Device rows start at multiples of this, so that kernels load 16 bytes at a time.
STRIDE_ALIGNMENT = 16
#: The first piece of a chunk; it doubles until it is whole.
FIRST_PIECE_BYTES = 1 << 20
#: Rows are widened to their stride, and uploaded, in pieces of this size.
UPLOAD_BYTES = 8 << 20
#: Seconds before an index whose rows did not fit asks again.
RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class VisibleRows:
    """Rows [0, n_rows) as kernels see them, and the memory that has to live meanwhile."""

    view: RowsView
    n_rows: int
    kept: tuple[object, ...]


class _Chunk:
    """The device copy of one chunk of rows; ``filled`` rows have arrived."""

    def __init__(self) -> None:
        self.buffer: Buffer | None = None
        self.filled = 0


class _Mirror:
    """The device copy of one ``Rows``."""

    def __init__(self, rows: Rows) -> None:
        self.lock = Lock()
        self.chunks: list[_Chunk] = []
        self.visible: VisibleRows | None = None
        self.refused_until_s = 0.0
        self.stride = stride_bytes(rows.dim, rows.dtype.itemsize)


class DeviceRows:
    """What the device has of each ``Rows``. Every method may be called from any thread."""

    def __init__(self, device: Device, budget: Budget, location: RawLocation) -> None:
        self._device, self._budget, self.location = device, budget, location
        self._mirrors: WeakKeyDictionary[Rows, _Mirror] = WeakKeyDictionary()
        self._lock = Lock()

    @property
    def reads_host(self) -> bool:
        """Whether kernels read the host's own rows, which must be page-locked then."""
        return self.location == "pinned"

    def of(self, rows: Rows, needed: int, stream: Stream) -> VisibleRows | None:
        """Return a view of at least the first ``needed`` rows; None: the host has to look."""
        if self.location == "none":
            return None
        mirror = self._mirror(rows)
        visible = mirror.visible
        if visible is not None and visible.n_rows >= needed:
            return visible
        with mirror.lock:
            if time.monotonic() < mirror.refused_until_s:
                return None
            try:
                self._budget.admit(_missing_bytes(mirror, rows, self.reads_host), "raw rows")
                mirror.visible = self._brought_up(mirror, rows, stream)
            except IndexFull:
                _let_go(mirror)
            return mirror.visible

    def holds(self, rows: Rows) -> bool:
        """Say whether searches have nothing to wait for: all rows are there, or will not come."""
        if self.location == "none":
            return True
        mirror = self._mirror(rows)
        there = mirror.visible is not None and mirror.visible.n_rows >= rows.n_rows
        return there or time.monotonic() < mirror.refused_until_s

    def hold(self, rows: Rows, stream: Stream) -> None:
        """Bring all rows up if there is room now.

        Where there is none nothing is refused yet: rows that a compaction has replaced may still
        lie beside them, and be gone when the first search asks.
        """
        mirror = self._mirror(rows)
        with mirror.lock:
            missing = _missing_bytes(mirror, rows, self.reads_host)
            if self.holds(rows) or missing > self._budget.left_bytes:
                return
            try:
                mirror.visible = self._brought_up(mirror, rows, stream)
            except IndexFull:  # somebody else was quicker
                _let_go(mirror)

    def give_way(self, nbytes: int) -> None:
        """Let go of whole copies, the largest first, until ``nbytes`` fit; the CPU re-ranks then.

        Memory that a search is reading comes back when it has ended.
        """
        with self._lock:
            mirrors = list(self._mirrors.values())
        for mirror in sorted(mirrors, key=_held_bytes, reverse=True):
            if self._budget.left_bytes >= nbytes:
                return
            if _held_bytes(mirror):
                with mirror.lock:
                    _let_go(mirror)

    def refused(self) -> int:
        """Return how many sets of rows did not fit on the device."""
        with self._lock:
            mirrors = list(self._mirrors.values())
        return sum(mirror.refused_until_s > 0 and mirror.visible is None for mirror in mirrors)

    def _mirror(self, rows: Rows) -> _Mirror:
        mirror = self._mirrors.get(rows)
        if mirror is None:
            with self._lock:
                mirror = self._mirrors.setdefault(rows, _Mirror(rows))
        return mirror

    def _brought_up(self, mirror: _Mirror, rows: Rows, stream: Stream) -> VisibleRows:
        n_rows, host_chunks = rows.n_rows, rows.chunks
        if self.reads_host:
            addresses = [chunk.ctypes.data for chunk in host_chunks]
            stride = rows.dim * rows.dtype.itemsize
            kept: tuple[object, ...] = tuple(host_chunks)
        else:
            self._upload(mirror, rows, host_chunks, n_rows, stream)
            addresses = [c.buffer.address for c in mirror.chunks if c.buffer is not None]
            stride, kept = mirror.stride, tuple(c.buffer for c in mirror.chunks)
        table = self._budget.empty(8 * max(1, len(addresses)), "raw rows")
        self._device.upload(np.array(addresses, np.uint64), table, 0, stream)
        stream.synchronize()
        view = RowsView(
            chunks=table.address,
            shift=rows.shift,
            stride_bytes=stride,
            dim=rows.dim,
            is_half=rows.dtype == np.float16,
            metric=METRICS[rows.metric],
        )
        return VisibleRows(view, n_rows, (table, *kept))

    def _upload(
        self, mirror: _Mirror, rows: Rows, host: list[AnyArray], n_rows: int, stream: Stream
    ) -> None:
        for number, vectors in enumerate(host):
            if number == len(mirror.chunks):
                mirror.chunks.append(_Chunk())
            chunk = mirror.chunks[number]
            end = min(rows.chunk_rows, n_rows - number * rows.chunk_rows)
            if end > chunk.filled:
                self._reserve(mirror, chunk, end, rows.chunk_rows, stream)
                self._fill(mirror.stride, chunk, vectors[:end], stream)

    def _reserve(
        self, mirror: _Mirror, chunk: _Chunk, needed: int, most: int, stream: Stream
    ) -> None:
        """Give a chunk room for ``needed`` rows; views keep the smaller copy they were made of."""
        held = 0 if chunk.buffer is None else chunk.buffer.nbytes // mirror.stride
        if held >= needed:
            return
        first = FIRST_PIECE_BYTES // mirror.stride
        capacity = min(most, max(needed, 2 * held, first))
        try:
            larger = self._budget.empty(capacity * mirror.stride, "raw rows")
        except IndexFull:
            larger = self._budget.empty(needed * mirror.stride, "raw rows")
        if chunk.buffer is not None:
            used = chunk.filled * mirror.stride
            self._device.copy(chunk.buffer, 0, larger, 0, used, stream)
            stream.synchronize()
        chunk.buffer = larger

    def _fill(self, stride: int, chunk: _Chunk, vectors: AnyArray, stream: Stream) -> None:
        assert chunk.buffer is not None
        step = max(1, UPLOAD_BYTES // stride)
        while chunk.filled < len(vectors):
            part = vectors[chunk.filled : chunk.filled + step]
            offset = chunk.filled * stride
            self._device.upload(widened(part, stride), chunk.buffer, offset, stream)
            stream.synchronize()
            chunk.filled += len(part)


def _held_bytes(mirror: _Mirror) -> int:
    return sum(0 if chunk.buffer is None else chunk.buffer.nbytes for chunk in list(mirror.chunks))


def _missing_bytes(mirror: _Mirror, rows: Rows, reads_host: bool) -> int:
    """Return what bringing all rows up will allocate, the piece that a copy outgrows included."""
    if reads_host:
        return 0
    missing = rows.n_rows * mirror.stride - _held_bytes(mirror)
    last = mirror.chunks[-1].buffer if mirror.chunks else None
    return 0 if missing <= 0 else missing + (0 if last is None else last.nbytes)


def _let_go(mirror: _Mirror) -> None:
    mirror.chunks, mirror.visible = [], None
    mirror.refused_until_s = time.monotonic() + RETRY_S


def stride_bytes(dim: int, itemsize: int) -> int:
    """Return the bytes from one device row to the next."""
    return -(-dim * itemsize // STRIDE_ALIGNMENT) * STRIDE_ALIGNMENT


def widened(vectors: AnyArray, stride: int) -> AnyArray:
    """Return [n, d] with rows of ``stride`` bytes, zero padded."""
    columns = stride // vectors.dtype.itemsize - vectors.shape[1]
    if columns == 0:
        return np.ascontiguousarray(vectors)
    return np.pad(vectors, ((0, 0), (0, columns)))
