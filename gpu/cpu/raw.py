"""Raw rows as the kernels see them: where their chunks lie."""

from __future__ import annotations

from threading import Lock
from weakref import WeakKeyDictionary, ref

import numpy as np

from gpu.rows import Rows

from . import layout
from .memory import Described, address


class RawRows:
    """Remembers the description of each ``Rows`` until a chunk is added to it."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Rows, tuple[int, Described]] = WeakKeyDictionary()
        self._lock = Lock()
        self._last: tuple[ref[Rows] | None, int, Described] = (None, 0, Described(0))

    def of(self, rows: Rows) -> Described:
        """Return the array of layout.py for all chunks that ``rows`` has now."""
        of, count, described = self._last
        if of is not None and of() is rows and count == rows.chunk_count:
            return described
        chunks = rows.chunks
        known = self._known.get(rows)
        if known is not None and known[0] == len(chunks):
            self._last = ref(rows), len(chunks), known[1]
            return known[1]
        described = Described(layout.RAW_PLACES)
        described.put(layout.RAW_DIM, rows.dim)
        described.put(layout.RAW_BYTES, rows.dim * rows.dtype.itemsize)
        described.put(layout.IS_HALF, int(rows.dtype == np.float16))
        described.put(layout.RAW_METRIC, layout.METRICS[rows.metric])
        described.put(layout.SHIFT, rows.shift)
        described.put(layout.CHUNKS_AT, np.array([address(chunk) for chunk in chunks], np.int64))
        with self._lock:
            self._known[rows] = len(chunks), described
        self._last = ref(rows), len(chunks), described
        return described
