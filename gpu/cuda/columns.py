"""Filter columns on the device: a copy of each beside the raw rows, brought up as it grows.

Invariants:

- A value is uploaded once, after it has become final; a later upload writes the same bits again
  where a word of them is shared with older rows.
- A view stays good while whoever holds it does: a copy that grew is another buffer.
- Where the columns of some rows do not fit, the memory is given back and the host filters.
- Lists come first, raw rows second: columns are the first to give way to them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from gpu.arrays import AnyArray, Bool
from gpu.errors import IndexFull
from gpu.filter_program import FilterColumn
from gpu.rows import Rows

from .device import Buffer, Device, Stream
from .memory import Budget
from .rows import RETRY_S

#: ``ColumnKind`` of filter.cu by NumPy type.
KINDS = {"|b1": 0, "<i2": 1, "<i4": 2, "<i8": 3, "<f4": 4, "<f8": 5, "|V16": 6}
#: An array's copy starts with this size, and doubles.
FIRST_BYTES = 1 << 16
#: Values are uploaded in pieces of this size.
UPLOAD_BYTES = 8 << 20
#: Rows of one word of validity bits.
WORD_ROWS = 32
WHAT = "filter columns"


class ColumnAt(NamedTuple):
    """Where a column's values and validity bits are, and the kind of its values.

    Of arrays also where the rows' offsets and the items' validity bits are, else 0.
    """

    values: int
    valid: int
    kind: int
    offsets: int = 0
    item_valid: int = 0


@dataclass(frozen=True, slots=True)
class VisibleColumns:
    """Columns as kernels see them, and the memory that has to live meanwhile."""

    places: tuple[ColumnAt, ...]
    kept: tuple[Buffer, ...]


@dataclass(slots=True)
class _Piece:
    """The device copy of one array: ``filled`` of its elements, or flags, have arrived."""

    buffer: Buffer | None = None
    filled: int = 0


@dataclass(slots=True)
class _Copy:
    """The device copy of one column."""

    values: _Piece = field(default_factory=_Piece)
    valid: _Piece = field(default_factory=_Piece)
    offsets: _Piece = field(default_factory=_Piece)
    item_valid: _Piece = field(default_factory=_Piece)


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
                _let_go(held)
                return None

    def give_way(self, nbytes: int) -> None:
        """Let go of all columns unless ``nbytes`` fit; the host filters for a while.

        Memory that a search is reading comes back when it has ended.
        """
        if self._budget.left_bytes >= nbytes:
            return
        with self._lock:
            everything = list(self._held.values())
        for held in everything:
            with held.lock:
                if held.copies:
                    _let_go(held)

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
            buffers = self._copied(copy, column, n_rows, stream)
            addresses = [buffer.address for buffer in buffers]
            kind = KINDS[column.values.dtype.str]
            places.append(ColumnAt(addresses[0], addresses[1], kind, *addresses[2:]))
            kept += buffers
        return VisibleColumns(tuple(places), tuple(kept))

    def _copied(
        self, copy: _Copy, column: FilterColumn, n_rows: int, stream: Stream
    ) -> list[Buffer]:
        """Bring up the first ``n_rows`` of a column; return its arrays in the order of ColumnAt."""
        if column.offsets is None or column.item_valid is None:
            values = self._array(copy.values, column.values, n_rows, stream)
            return [values, self._bits(copy.valid, column.valid, n_rows, stream)]
        n_items = int(column.offsets[n_rows])
        return [
            self._array(copy.values, column.values, n_items, stream),
            self._bits(copy.valid, column.valid, n_rows, stream),
            self._array(copy.offsets, column.offsets, n_rows + 1, stream),
            self._bits(copy.item_valid, column.item_valid, n_items, stream),
        ]

    def _array(self, piece: _Piece, values: AnyArray, n: int, stream: Stream) -> Buffer:
        """Bring up the first ``n`` elements of ``values``."""
        width = values.itemsize
        buffer = self._reserved(piece, n * width, piece.filled * width, stream)
        step = UPLOAD_BYTES // width
        for start in range(piece.filled, n, step):
            part = np.ascontiguousarray(values[start : min(n, start + step)]).view(np.uint8)
            self._device.upload(part, buffer, start * width, stream)
            stream.synchronize()
        piece.filled = max(piece.filled, n)
        return buffer

    def _bits(self, piece: _Piece, flags: Bool, n: int, stream: Stream) -> Buffer:
        """Bring up the first ``n`` of ``flags`` as bits, in whole words."""
        first = piece.filled // WORD_ROWS
        words, held = -(-n // WORD_ROWS), -(-piece.filled // WORD_ROWS)
        buffer = self._reserved(piece, 4 * words, 4 * held, stream)
        if n > piece.filled:
            packed = np.packbits(flags[first * WORD_ROWS : n], bitorder="little")
            padded = np.pad(packed, (0, -len(packed) % 4))
            self._device.upload(padded, buffer, 4 * first, stream)
            stream.synchronize()
            piece.filled = n
        return buffer

    def _reserved(
        self, piece: _Piece, needed_bytes: int, held_bytes: int, stream: Stream
    ) -> Buffer:
        """Give a piece room; views keep the smaller buffer that they were made of."""
        if piece.buffer is not None and piece.buffer.nbytes >= needed_bytes:
            return piece.buffer
        grown = 0 if piece.buffer is None else 2 * piece.buffer.nbytes
        larger = self._budget.empty(max(FIRST_BYTES, grown, needed_bytes), WHAT)
        if piece.buffer is not None:
            self._device.copy(piece.buffer, 0, larger, 0, held_bytes, stream)
            stream.synchronize()
        piece.buffer = larger
        return larger


def _let_go(held: _Held) -> None:
    held.copies = {}
    held.refused_until_s = time.monotonic() + RETRY_S
