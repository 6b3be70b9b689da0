"""Launches of append.cu: rows into the pages of lists."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .device import Kernel
from .layout import ListLayout, ListsView
from .scratch import Queue

THREADS = 256
WARPS = THREADS // 32
#: More blocks gain nothing: each thread goes on with the next item.
MOST_BLOCKS = 1 << 14


class NewRows(NamedTuple):
    """Addresses of ``n`` encoded rows and of where they go.

    ``lists`` i32, ``slots`` i32 (the row's number in its list), ``row_ids`` i32, ``codes``
    u8[n, code_bytes] as stored, ``bias`` and ``gain`` float16.
    """

    n: int
    lists: int
    slots: int
    row_ids: int
    codes: int
    bias: int
    gain: int


def append_rows(queue: Queue, layout: ListLayout, rows: NewRows, lists: ListsView) -> None:
    """Write rows to their slots; the pages of ``lists`` must have room, lengths are not read."""
    items = rows.n * (layout.chunks + 1)
    queue.device.launch(
        Kernel("append", "append_rows"),
        (max(1, min(-(-items // THREADS), MOST_BLOCKS)), 1, 1),
        THREADS,
        (
            np.int32(rows.n),
            np.uint64(rows.lists),
            np.uint64(rows.slots),
            np.uint64(rows.row_ids),
            np.uint64(rows.codes),
            np.int32(layout.code_bytes),
            np.uint64(rows.bias),
            np.uint64(rows.gain),
            np.uint64(lists.starts),
            np.uint64(lists.pages),
            np.int32(layout.chunks),
        ),
        queue.stream,
    )


class Kept(NamedTuple):
    """Addresses of a bitmap over row ids, and of i32 ranks: its set bits before each 32-bit word.

    Rows get their rank as their new id; with 0 for ``ranks`` they keep their ids.
    """

    bits: int
    ranks: int = 0


class ListRange(NamedTuple):
    """Lists [first, end)."""

    first: int
    end: int


def survivors(
    queue: Queue, layout: ListLayout, lists: ListsView, nlist: int, kept: int, counts: int
) -> None:
    """Write i32[L] at ``counts``: rows of each list that the bitmap at ``kept`` has set."""
    queue.device.launch(
        Kernel("append", "survivors"),
        (-(-nlist // WARPS), 1, 1),
        THREADS,
        (*_read(lists, nlist, layout), np.uint64(kept), np.uint64(counts)),
        queue.stream,
    )


def rewrite(
    queue: Queue,
    layout: ListLayout,
    lists: ListsView,
    which: ListRange,
    kept: Kept,
    to: ListsView,
) -> None:
    """Copy the rows of some lists that ``kept`` has set, in order, to the same lists of ``to``.

    Those have pages for as many rows as ``survivors`` counted.
    """
    count = which.end - which.first
    own = lists._replace(
        starts=lists.starts + 4 * which.first, lengths=lists.lengths + 4 * which.first
    )
    queue.device.launch(
        Kernel("append", "rewrite"),
        (-(-count // WARPS), 1, 1),
        THREADS,
        (
            *_read(own, count, layout),
            np.uint64(kept.bits),
            np.uint64(kept.ranks),
            np.uint64(to.starts + 4 * which.first),
            np.uint64(to.pages),
        ),
        queue.stream,
    )


def _read(lists: ListsView, nlist: int, layout: ListLayout) -> tuple[np.generic, ...]:
    return (
        np.int32(nlist),
        np.uint64(lists.starts),
        np.uint64(lists.lengths),
        np.uint64(lists.pages),
        np.int32(layout.chunks),
    )
