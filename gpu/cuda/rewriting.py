"""Lists without dead rows, copied from page to page on the card.

Invariants:

- The pages for all surviving rows are asked for before anything is copied.
- The old version is only read, so its searches go on; nobody sees the new one until it is whole.
- What stops in between gives its pages back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from gpu.arrays import I32, I64, U8
from gpu.bitmap import count

from .append import Kept, ListRange, rewrite, survivors
from .block import Block, Output
from .device import Buffer
from .layout import bitmap_bytes
from .lists import DeviceLists

#: Rows copied between two looks at whoever waits: some hundred microseconds of a card, which its
#: searches share.
SLICE_ROWS = 1 << 22


class Survivors(NamedTuple):
    """The bitmap of rows to keep, on the host and on the card; whether they get new ids."""

    bits: U8
    there: Buffer
    renumber: bool


def rewritten_lists(lists: DeviceLists, kept: Survivors, pause: Callable[[], None]) -> DeviceLists:
    """Return lists with the rows that ``kept`` has set; ``pause`` is called before each slice."""
    made = lists.resized(_counted(lists, kept.there.address))
    made.rows_end = count(kept.bits, lists.rows_end) if kept.renumber else lists.rows_end
    for which in _slices(lists.lengths):
        pause()
        _copy(lists, kept, which, made)
    return made


def _counted(lists: DeviceLists, kept: int) -> I64:
    """Return how many rows of each list survive, i64[L]."""
    nlist, layout = len(lists.lengths), lists.prepared.view.layout
    with lists.ground.spaces.one() as space:
        block = Block(space, (), (Output((nlist,), np.int32),), 0)
        survivors(block.queue, layout, lists.view, nlist, kept, block.output(0))
        block.receive()
        (counts,) = block.wait()
    return counts.astype(np.int64)


def _copy(lists: DeviceLists, kept: Survivors, which: ListRange, to: DeviceLists) -> None:
    """Copy some lists; they are there when this returns."""
    inputs = (_ranks(kept.bits),) if kept.renumber else ()
    with lists.ground.spaces.one() as space:
        block = Block(space, inputs, (), 0)
        ranks = block.input(0) if kept.renumber else 0
        block.send()
        layout, bits = lists.prepared.view.layout, Kept(kept.there.address, ranks)
        rewrite(block.queue, layout, lists.view, which, bits, to.view)
        block.wait()


def _ranks(bits: U8) -> I32:
    """Return the set bits before each 32-bit word of a bitmap, i32[words]."""
    counts = np.bitwise_count(bitmap_bytes(bits).view(np.uint32))
    ranks = np.zeros(len(counts), np.int32)
    np.cumsum(counts[:-1], out=ranks[1:])
    return ranks


def _slices(lengths: I64) -> Iterator[ListRange]:
    """Yield ranges of lists that hold about ``SLICE_ROWS`` rows each, or one longer list."""
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        before = int(ends[first - 1]) if first else 0
        end = max(first + 1, int(np.searchsorted(ends, before + SLICE_ROWS, side="right")))
        yield ListRange(first, end)
        first = end
