"""A codec on the device: its arrays, once for all lists and searches, and the slab of its pages."""

from __future__ import annotations

from threading import Lock
from weakref import WeakKeyDictionary

import numpy as np

from gpu.codec import Codec, half_squares

from .device import Buffer, Stream
from .layout import CodecView, codec_arrays, codec_view
from .memory import Budget
from .slab import Slab
from .workspace import Parts


class PreparedCodec:
    """``view`` for kernels, ``halves`` the address of |c|^2 / 2 f32[L], and the lists' ``slab``."""

    def __init__(self, codec: Codec, budget: Budget, stream: Stream) -> None:
        arrays = codec_arrays(codec)
        named = {**arrays._asdict(), "halves": half_squares(arrays.centroids)}
        parts = Parts()
        offsets = {name: parts.add(array.nbytes) for name, array in named.items()}
        self.buffer: Buffer = budget.need(parts.nbytes, "a codec")
        for name, array in named.items():
            plain = np.ascontiguousarray(array, np.float32)
            budget.device.upload(plain, self.buffer, offsets[name], stream)
            stream.synchronize()
        there = {
            name: self.buffer.address + offsets[name] if array.size else 0
            for name, array in named.items()
        }
        self.halves = there["halves"]
        self.view: CodecView = codec_view(codec, there)
        self.slab = Slab(budget, self.view.layout.page_bytes)


class PreparedCodecs:
    """The prepared form of each codec, for as long as the codec lives."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._known: WeakKeyDictionary[Codec, PreparedCodec] = WeakKeyDictionary()
        self._lock = Lock()

    def of(self, codec: Codec, stream: Stream) -> PreparedCodec:
        """Return it, made at the first call; raise IndexFull where it does not fit."""
        known = self._known.get(codec)
        if known is not None:
            return known
        with self._lock:
            known = self._known.get(codec)
            if known is None:
                known = self._known[codec] = PreparedCodec(codec, self._budget, stream)
        return known
