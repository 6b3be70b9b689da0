"""Filter columns on the device: a copy of each beside the raw rows, brought up as it grows.

Invariants:

- A value is uploaded once, after it has become final; a later upload writes the same bits again
  where a word of validity bits is shared with older rows.
- A view stays good while whoever holds it does: a copy that grew is another buffer.
- Where the columns of some rows do not fit, the memory is given back and the host filters.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from gpu.arrays import AnyArray
from gpu.errors import IndexFull
from gpu.filter_program import FilterColumn
from gpu.rows import Rows

from .device import Buffer, Device, Stream
from .memory import Budget
from .rows import RETRY_S

#: ``ColumnKind`` of filter.cu by NumPy type.
KINDS = {"|b1": 0, "<i2": 1, "<i4": 2, "<i8": 3, "<f4": 4, "<f8": 5, "|V16": 6}
#: A copy starts with room for this many rows, and doubles.
FIRST_ROWS = 1 << 16
#: Values are uploaded in pieces of this size.
UPLOAD_BYTES = 8 << 20
#: Rows of one word of validity bits.
WORD_ROWS = 32
WHAT = "filter columns"


class ColumnAt(NamedTuple):
    """Where a column's values and validity bits are, and the kind of its values."""

    values: int
    valid: int
    kind: int


@dataclass(frozen=True, slots=True)
class VisibleColumns:
    """Columns as kernels see them, and the memory that has to live meanwhile."""

    places: tuple[ColumnAt, ...]
    kept: tuple[Buffer, ...]


@dataclass(slots=True)
class _Copy:
    """The device copy of one column: ``filled`` of its rows have arrived."""

    values: Buffer | None = None
    valid: Buffer | None = None
    capacity: int = 0
    filled: int = 0


@dataclass(slots=True)
class _Held:
    """The columns of one ``Rows``, by name."""

    lock: Lock = field(default_factory=Lock)
    copies: dict[str, _Copy] = field(default_factory=dict)
    refused_until_s: float = 0.0


class DeviceColumns:
    """What the device has of each index's columns. Every method may be called from any thread."""

    def __init__(self, device: Device, budget: Budget) -> None:
        self._device, self._budget = device, budget
        self._held: WeakKeyDictionary[Rows, _Held] = WeakKeyDictionary()
        self._lock = Lock()

    def of(
        self,
        rows: Rows,
        names: Sequence[str],
        columns: Sequence[FilterColumn],
        n_rows: int,
        stream: Stream,
    ) -> VisibleColumns | None:
        """Return the first ``n_rows`` of columns of ``rows``; None: they do not fit.

        A name stands for the same column for as long as the rows live.
        """
        with self._lock:
            held = self._held.setdefault(rows, _Held())
        with held.lock:
            if time.monotonic() < held.refused_until_s:
                return None
            try:
                return self._brought_up(held, names, columns, n_rows, stream)
            except IndexFull:
                held.copies = {}
                held.refused_until_s = time.monotonic() + RETRY_S
                return None

    def refused(self) -> int:
        """Return for how many sets of rows there was no room."""
        with self._lock:
            held = list(self._held.values())
        return sum(one.refused_until_s > 0 and not one.copies for one in held)

    def _brought_up(
        self,
        held: _Held,
        names: Sequence[str],
        columns: Sequence[FilterColumn],
        n_rows: int,
        stream: Stream,
    ) -> VisibleColumns:
        places: list[ColumnAt] = []
        kept: list[Buffer] = []
        for name, column in zip(names, columns, strict=True):
            copy = held.copies.setdefault(name, _Copy())
            if copy.filled < n_rows:
                self._reserve(copy, n_rows, column.values.itemsize, stream)
                self._fill(copy, column, n_rows, stream)
            assert copy.values is not None
            assert copy.valid is not None
            kind = KINDS[column.values.dtype.str]
            places.append(ColumnAt(copy.values.address, copy.valid.address, kind))
            kept += [copy.values, copy.valid]
        return VisibleColumns(tuple(places), tuple(kept))

    def _reserve(self, copy: _Copy, n_rows: int, width: int, stream: Stream) -> None:
        """Give a copy room for ``n_rows``; views keep the smaller buffers they were made of."""
        if copy.capacity >= n_rows:
            return
        capacity = max(FIRST_ROWS, 2 * copy.capacity, n_rows)
        capacity = -(-capacity // WORD_ROWS) * WORD_ROWS
        values = self._budget.empty(capacity * width, WHAT)
        valid = self._budget.empty(capacity // 8, WHAT)
        if copy.values is not None and copy.valid is not None:
            whole = copy.filled // WORD_ROWS * WORD_ROWS
            self._device.copy(copy.values, 0, values, 0, copy.filled * width, stream)
            self._device.copy(copy.valid, 0, valid, 0, whole // 8, stream)
            stream.synchronize()
        copy.values, copy.valid, copy.capacity = values, valid, capacity

    def _fill(self, copy: _Copy, column: FilterColumn, n_rows: int, stream: Stream) -> None:
        assert copy.values is not None
        assert copy.valid is not None
        width = column.values.itemsize
        first = copy.filled // WORD_ROWS * WORD_ROWS
        bits = _words(column.valid[first:n_rows])
        self._device.upload(bits, copy.valid, first // 8, stream)
        step = UPLOAD_BYTES // width
        for start in range(copy.filled, n_rows, step):
            part = _bytes_of(column.values[start : min(n_rows, start + step)])
            self._device.upload(part, copy.values, start * width, stream)
            stream.synchronize()
        copy.filled = n_rows


def _bytes_of(values: AnyArray) -> AnyArray:
    return np.ascontiguousarray(values).view(np.uint8)


def _words(valid: AnyArray) -> AnyArray:
    """Return bool[n] as bits, padded to whole words."""
    bits = np.packbits(valid, bitorder="little")
    return np.pad(bits, (0, -len(bits) % 4))
