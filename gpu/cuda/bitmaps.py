"""Bitmaps on the device: one copy for each host bitmap, for as long as that one lives.

Published bitmaps never change (bitmap.py), so the object itself is the key: the searches of one
state, and of later states without kills, share one upload. A filter's bitmap is uploaded for its
own search and goes with it.
"""

from __future__ import annotations

import weakref
from threading import Lock
from typing import Any

import numpy as np

from gpu.arrays import U8

from .device import Buffer, Device, Stream
from .layout import bitmap_bytes


class DeviceBitmaps:
    """Copies by host array. Every method may be called from any thread."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._known: dict[int, tuple[weakref.ref[Any], Buffer]] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._known)

    def holds(self, bits: U8) -> bool:
        """Say whether a search that wants this bitmap has nothing to wait for."""
        with self._lock:
            known = self._known.get(id(bits))
        return known is not None and known[0]() is bits

    def of(self, bits: U8, stream: Stream) -> Buffer:
        """Return the copy of a packed bitmap, padded to words; it is there when this returns."""
        key = id(bits)
        with self._lock:
            known = self._known.get(key)
        if known is not None and known[0]() is bits:
            return known[1]
        buffer = self._uploaded(bits, stream)
        reference = weakref.ref(bits, lambda _: self._known.pop(key, None))
        with self._lock:
            self._known[key] = reference, buffer
        return buffer

    def _uploaded(self, bits: U8, stream: Stream) -> Buffer:
        padded = np.ascontiguousarray(bitmap_bytes(bits))
        buffer = self._device.empty(max(4, padded.nbytes))
        self._device.upload(padded, buffer, 0, stream)
        stream.synchronize()
        return buffer
