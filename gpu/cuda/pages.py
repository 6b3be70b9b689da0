"""Pages as bytes on the host: what layout.py says, in NumPy. For files, and for those who check."""

from __future__ import annotations

import numpy as np

from gpu.arrays import F16, I32, I64, U8
from gpu.encoding import ListContents

from .layout import CHUNK_BYTES, GROUP_ROWS, PAGE_GROUPS, PAGE_ROWS, ListLayout


class PageRows:
    """The rows of pages u8[n, page_bytes] as arrays over (page, slot); writes go to the pages."""

    def __init__(self, layout: ListLayout, pages: U8) -> None:
        groups = pages.reshape(len(pages), PAGE_GROUPS, layout.group_bytes)
        split = GROUP_ROWS * CHUNK_BYTES * layout.chunks
        shape = (len(pages), PAGE_GROUPS, layout.chunks, GROUP_ROWS, CHUNK_BYTES)
        self._layout, self._pages = layout, len(pages)
        self._codes = groups[:, :, :split].reshape(shape)
        factors = groups[:, :, split:]
        self._bias = factors[:, :, :64].view(np.float16)
        self._gain = factors[:, :, 64:128].view(np.float16)
        self._row_ids = factors[:, :, 128:].view(np.int32)

    def codes(self) -> U8:
        """Return stored codes u8[n * PAGE_ROWS, code_bytes], a copy."""
        rows = self._codes.transpose(0, 1, 3, 2, 4).reshape(self._pages * PAGE_ROWS, -1)
        return rows[:, : self._layout.code_bytes]

    def bias(self) -> F16:
        """Return f16[n * PAGE_ROWS]."""
        return self._bias.reshape(-1)

    def gain(self) -> F16:
        """Return f16[n * PAGE_ROWS]."""
        return self._gain.reshape(-1)

    def row_ids(self) -> I32:
        """Return i32[n * PAGE_ROWS]."""
        return self._row_ids.reshape(-1)

    def put(self, page_of: I64, slots: I64, rows: ListContents) -> None:
        """Write row i to slot ``slots[i]`` of page ``page_of[i]``."""
        group, lane = slots // GROUP_ROWS, slots % GROUP_ROWS
        width = CHUNK_BYTES * self._layout.chunks
        codes = np.pad(rows.codes, ((0, 0), (0, width - rows.codes.shape[1])))
        codes = codes.reshape(len(rows), self._layout.chunks, CHUNK_BYTES)
        self._codes[page_of, group, :, lane] = codes
        self._bias[page_of, group, lane] = rows.bias
        self._gain[page_of, group, lane] = rows.gain
        self._row_ids[page_of, group, lane] = rows.row_ids
