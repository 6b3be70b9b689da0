"""New rows of lists: gathered in page-locked memory, sent in one piece, scattered by a kernel."""

from __future__ import annotations

import numpy as np

from gpu.arrays import I64, AnyArray
from gpu.encoding import ListContents

from .append import NewRows, append_rows
from .layout import ListLayout, ListsView
from .scratch import Queue
from .workspace import Parts, Workspace, view_of

#: Bytes sent at a time: large enough for the bus, small beside what a search takes.
PIECE_BYTES = 16 << 20


def write_rows(
    layout: ListLayout, batch: ListContents, slots: I64, lists: ListsView, space: Workspace
) -> None:
    """Write each row of ``batch`` to slot i64[n] of its list; it is there when this returns."""
    row_bytes = layout.code_bytes + 16
    step = max(1, PIECE_BYTES // row_bytes)
    for first in range(0, len(batch), step):
        part = slice(first, first + step)
        _write_piece(layout, batch.take(part), slots[part], lists, space)


def _write_piece(
    layout: ListLayout, batch: ListContents, slots: I64, lists: ListsView, space: Workspace
) -> None:
    arrays: tuple[AnyArray, ...] = (
        batch.list_ids,
        slots.astype(np.int32),
        batch.row_ids.astype(np.int32),
        batch.codes,
        batch.bias,
        batch.gain,
    )
    parts = Parts()
    offsets = [parts.add(array.nbytes) for array in arrays]
    sent = space.pinned(parts.nbytes)
    for array, offset in zip(arrays, offsets, strict=True):
        view_of(sent, offset, array.shape, array.dtype.type)[...] = array
    scratch = space.scratch(parts.nbytes)
    space.device.upload(sent, scratch, 0, space.stream)
    new = NewRows(len(batch), *(scratch.address + offset for offset in offsets))
    append_rows(Queue(space.device, space.stream), layout, new, lists)
    space.stream.synchronize()
