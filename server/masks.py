"""Filters' answers, kept for the next search with the same filter.

Invariants:

- A mask is of one numbering of rows (``Rows``): values below a row id never change, so only the
  rows that came since are looked at; an UPDATE or a DELETE changes no answer, as a search takes
  alive rows only.
- A filter that fails is not kept: it may have failed on a row that has died since.
- What is kept takes about ``max_bytes`` at most; the mask unused for longest goes first.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from gpu import PackedMask
from gpu.arrays import U8
from gpu.bitmap import pack
from gpu.rows import Rows

from .columns import ColumnView
from .device_filters import matching
from .filters.filter import Filter
from .state import MirrorState

#: Masks of all indexes together: one of a million rows takes 125 kB, counted as 500 kB.
MAX_BYTES = 64 << 20
#: Searches keep with a mask its live rows and the order of its matches (4 bytes each; they are
#: used where matches are few), which takes about three times what its bits do.
WITH_WHAT_SEARCHES_KEEP = 4


@dataclass(frozen=True, slots=True)
class _Kept:
    rows: weakref.ref[Rows]
    mask: PackedMask

    def of(self, state: MirrorState) -> PackedMask | None:
        """Return the mask if it is of the state's row numbers, and of no later state."""
        fits = self.rows() is state.index.rows and self.mask.n_rows <= state.n_rows
        return self.mask if fits else None


class MaskCache:
    """Masks by filter. Any thread may call."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes, self._lock = max_bytes, threading.Lock()
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._bytes = 0

    def find(self, state: MirrorState, key: Hashable) -> PackedMask | None:
        """Return the mask kept under ``key`` for the state's rows, or for the first of them."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                return None
            self._kept.move_to_end(key)
            return kept.of(state)

    def keep(self, state: MirrorState, key: Hashable, mask: PackedMask) -> None:
        """Remember a mask of all rows of ``state``."""
        with self._lock:
            self._drop(key)
            self._kept[key] = _Kept(weakref.ref(state.index.rows), mask)
            self._bytes += _bytes_of(mask)
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._kept)))

    def _drop(self, key: Hashable) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= _bytes_of(kept.mask)


def _bytes_of(mask: PackedMask) -> int:
    return WITH_WHAT_SEARCHES_KEEP * mask.bits.nbytes


def evaluate(expression: Filter, state: MirrorState, known: PackedMask | None) -> PackedMask:
    """Return which rows of ``state`` match; ``known`` is the answer for the first of them.

    Raise FilterError or UnknownColumn.
    """
    # Devices take whole words of 32 bits: the last ones are worked out anew.
    first = 0 if known is None else known.n_rows & ~31
    bits = matching(expression, state, first)
    if bits is None:
        bits = _evaluated(expression, state, first)
    if known is not None:
        bits = np.concatenate([known.bits[: first >> 3], bits])
    return PackedMask(bits, state.n_rows)


def _evaluated(expression: Filter, state: MirrorState, first: int) -> U8:
    """Return which rows from ``first`` on match, as bits."""
    live = state.index.alive()
    if first == 0:
        return pack(expression.evaluate(state.column, state.n_rows, live))
    fresh = np.arange(first, state.n_rows)

    def column(name: str) -> ColumnView:
        return state.column(name).take(fresh)

    return pack(expression.evaluate(column, len(fresh), live[first:]))
