"""Packed bitmaps over row ids: bit ``i & 7`` of byte ``i >> 3`` belongs to row i.

Invariants of the alive bitmap:

- bits of rows not born yet are 1, so that adding rows never touches it;
- a published bitmap never changes: kills go into a copy;
- who reads it is bounded by the number of rows of the state it came with.
"""

from __future__ import annotations

import numpy as np

from .arrays import I64, U8, Bool

#: Rows a bitmap has room for at first; it doubles from there.
FIRST_CAPACITY = 1 << 16


def bits_at(bits: U8, row_ids: I64) -> Bool:
    """Return the bits of ``row_ids`` i64[n] as bool[n]."""
    shifted: U8 = bits[row_ids >> 3] >> (row_ids & 7).astype(np.uint8)
    return (shifted & 1).astype(np.bool_)


def unpack(bits: U8, start: int, stop: int) -> Bool:
    """Return bits [start, stop) as bool[stop - start]."""
    first = start >> 3
    packed = bits[first : (stop + 7) >> 3]
    flags = np.unpackbits(packed, bitorder="little").view(np.bool_)
    return flags[start - 8 * first : stop - 8 * first]


def count(bits: U8, stop: int) -> int:
    """Return how many of the bits [0, stop) are 1."""
    # A word at a time is eight times as fast as a byte.
    words = np.ascontiguousarray(bits)[: (stop >> 6) << 3].view(np.uint64)
    whole = int(np.add.reduce(np.bitwise_count(words), dtype=np.int64))
    return whole + int(np.count_nonzero(unpack(bits, stop & ~63, stop)))


def pack(flags: Bool) -> U8:
    """Return bool[n] as u8[ceil(n / 8)]; the bits past n are 0."""
    return np.packbits(flags, bitorder="little")


def all_set(bits: U8, start: int, stop: int) -> bool:
    """Say whether all bits of [start, stop) are 1, looking at whole bytes (it may say no early)."""
    return bool((bits[start >> 3 : (stop + 7) >> 3] == 0xFF).all())


class AliveBits:
    """The writer's alive bitmap: grows with the rows, copies before the first kill of a batch."""

    def __init__(self) -> None:
        self._bits = np.full(FIRST_CAPACITY >> 3, 0xFF, np.uint8)
        self._shared = False
        self.dead_rows = 0

    def publish(self, n_rows: int) -> U8:
        """Return the bitmap for a state of ``n_rows``; from now on it never changes."""
        self._reserve(n_rows)
        self._shared = True
        return self._bits

    def kill(self, row_ids: I64, n_rows: int) -> None:
        """Clear the bits of ``row_ids``, all below ``n_rows``; dead ones stay dead."""
        self._reserve(n_rows)
        if self._shared:
            self._bits = self._bits.copy()
            self._shared = False
        ids = np.unique(row_ids)
        self.dead_rows += int(np.count_nonzero(bits_at(self._bits, ids)))
        keep = ~(np.uint8(1) << (ids & 7).astype(np.uint8))
        np.bitwise_and.at(self._bits, ids >> 3, keep)

    def _reserve(self, n_rows: int) -> None:
        capacity = 8 * len(self._bits)
        if n_rows > capacity:
            grown = np.full(max(2 * capacity, n_rows + 7) >> 3, 0xFF, np.uint8)
            grown[: len(self._bits)] = self._bits
            self._bits, self._shared = grown, False
