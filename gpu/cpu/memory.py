"""Arrays that kernels read by address."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu.arrays import I64, U8, AnyArray

ALIGNMENT = 64


def address(array: AnyArray) -> int:
    """Return where an array lies; whoever asks keeps it alive."""
    return int(array.ctypes.data)


def aligned_bytes(size: int) -> U8:
    """Return u8[size] of zeros at a multiple of 64."""
    room = np.zeros(size + ALIGNMENT, np.uint8)
    start = -address(room) % ALIGNMENT
    return room[start : start + size]


def aligned(array: AnyArray) -> AnyArray:
    """Return a contiguous copy at a multiple of 64."""
    plain = np.ascontiguousarray(array)
    copy = aligned_bytes(plain.nbytes).view(plain.dtype).reshape(plain.shape)
    copy[...] = plain
    return copy


class Described:
    """An int64 array of numbers and addresses, and the arrays that those belong to."""

    def __init__(self, size: int) -> None:
        self.values: I64 = np.zeros(size, np.int64)
        self.at = address(self.values)
        self._kept: list[Any] = [self.values]

    def put(self, place: int, value: int | AnyArray) -> None:
        """Set one number, or the address of an array, which is kept alive."""
        if isinstance(value, np.ndarray):
            self._kept.append(value)
            value = address(value)
        self.values[place] = value
