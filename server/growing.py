"""An append-only array whose prefixes stay valid for ever.

Invariant: an element below a length once read never changes, so a search may keep ``view()`` while
the writer appends; growing copies into a new buffer and leaves the old one to its readers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

#: Small enough for thousands of empty columns, large enough to make first growth rare.
_FIRST_CAPACITY = 256


class GrowingArray:
    """A one-dimensional array that doubles its buffer when it is full. One writer at a time."""

    def __init__(self, dtype: DTypeLike) -> None:
        self._buffer: NDArray[Any] = np.zeros(_FIRST_CAPACITY, dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, values: NDArray[Any]) -> None:
        """Append ``values`` (any length, castable to the dtype)."""
        end = self._length + len(values)
        if end > len(self._buffer):
            self._grow(end)
        self._buffer[self._length : end] = values
        self._length = end

    def view(self) -> NDArray[Any]:
        """Return what has been appended so far; later appends do not show in it."""
        return self._buffer[: self._length]

    def _grow(self, needed: int) -> None:
        buffer = np.zeros(max(needed, 2 * len(self._buffer)), self._buffer.dtype)
        buffer[: self._length] = self._buffer[: self._length]
        self._buffer = buffer
