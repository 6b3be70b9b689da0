"""Inverted lists of the CUDA backend: versions over shared pages. The layout is layout.py's.

Invariants:

- A version never changes: slots below its lengths are written before it exists and never after,
  and its three arrays on the device are its own.
- Appending to the newest version writes behind its lengths, in pages that later versions share.
  Appending to an older one copies the half-filled pages that it touches.
- Pages go back to the slab when the last version that can see them goes.
- A failed append leaves no page taken and the version as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpu.arrays import I32, I64, AnyArray
from gpu.codec import Codec
from gpu.encoding import ListContents, joined

from .device import Buffer
from .layout import PAGE_ROWS, ListsView
from .memory import Budget
from .pages import PageRows
from .prepared import PreparedCodec
from .slab import U64, Slab
from .transfer import fetch
from .workspace import Parts, Workspace, Workspaces
from .writing import write_rows

#: Pages fetched from the device at a time, in bytes.
FETCH_BYTES = 64 << 20


class Ground(NamedTuple):
    """What versions of lists stand on."""

    prepared: PreparedCodec
    spaces: Workspaces
    budget: Budget


class PageOwner:
    """Gives pages back to their slab when the last version that can see them is gone."""

    def __init__(self, slab: Slab, older: PageOwner | None = None) -> None:
        self._slab, self._older = slab, older
        self._taken: list[U64] = []

    def keep(self, pages: U64) -> None:
        """Take over pages from whoever took them out of the slab."""
        self._taken.append(pages)

    def __del__(self) -> None:
        """Give them back."""
        for pages in self._taken:
            self._slab.give(pages)


@dataclass(slots=True)
class _Chain:
    """Versions that share pages; only number ``newest`` may be appended to in place."""

    owner: PageOwner
    newest: int = 0


class _Table(NamedTuple):
    """Where pages are, on the host: list l owns pages[starts[l] : starts[l + 1]]."""

    starts: I64
    pages: U64

    def counts(self) -> I64:
        """Return the pages of each list."""
        return np.diff(self.starts)

    def grown(self, counts: I64, fresh: U64) -> _Table:
        """Return a table with ``counts`` pages a list; new ones are ``fresh``, list by list."""
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        moved = np.repeat(starts[:-1] - self.starts[:-1], self.counts())
        moved += np.arange(len(self.pages))
        is_new = np.ones(int(starts[-1]), np.bool_)
        is_new[moved] = False
        pages = np.empty(len(is_new), np.uint64)
        pages[moved], pages[is_new] = self.pages, fresh
        return _Table(starts, pages)

    def last_pages(self, lists: I64) -> I64:
        """Return the place of the last page of each of ``lists``."""
        return self.starts[lists + 1] - 1


class DeviceLists:
    """One version of the lists of a codec."""

    def __init__(
        self, codec: Codec, ground: Ground, chain: _Chain, number: int, table: _Table, lengths: I64
    ) -> None:
        self.codec, self.ground, self.lengths = codec, ground, lengths
        #: Every row id is below this.
        self.rows_end = 0
        self._chain, self._number, self._table = chain, number, table
        self._arrays, self.view = self._described()

    @classmethod
    def empty(cls, codec: Codec, ground: Ground) -> DeviceLists:
        """Return lists without rows."""
        table = _Table(np.zeros(codec.nlist + 1, np.int64), np.empty(0, np.uint64))
        chain = _Chain(PageOwner(ground.prepared.slab))
        return cls(codec, ground, chain, 0, table, np.zeros(codec.nlist, np.int64))

    @property
    def n_rows(self) -> int:
        """Rows of all lists together."""
        return int(self.lengths.sum())

    @property
    def prepared(self) -> PreparedCodec:
        """The codec on the device."""
        return self.ground.prepared

    def append(self, batch: ListContents) -> DeviceLists:
        """Return a version with the rows of ``batch`` added; raise IndexFull and change nothing."""
        if len(batch) == 0:
            return self
        chain, lengths = self._chain, self.lengths + _counts(batch.list_ids, self.codec.nlist)
        if chain.newest != self._number:
            chain = _Chain(PageOwner(self.prepared.slab, chain.owner))
        table, fresh = self._extended(lengths, own=chain is self._chain)
        try:
            version = DeviceLists(self.codec, self.ground, chain, chain.newest + 1, table, lengths)
            with self.ground.spaces.one() as space:
                self._copy_half_pages(table, fresh, space)
                layout, slots = self.prepared.view.layout, self._slots(batch.list_ids)
                write_rows(layout, batch, slots, version.view, space)
        except BaseException:
            self.prepared.slab.give(fresh)
            raise
        version.rows_end = max(self.rows_end, int(batch.row_ids.max()) + 1)
        chain.owner.keep(fresh)
        chain.newest += 1
        return version

    def contents(self) -> ListContents:
        """Return all rows, sorted by list, then by row id."""
        rows = joined(list(self._fetched()), self.codec)
        return rows.take(np.lexsort((rows.row_ids, rows.list_ids)))

    def resized(self, lengths: I64) -> DeviceLists:
        """Return lists of ``lengths`` in fresh pages that hold nothing yet; raise IndexFull."""
        slab, needed = self.prepared.slab, -(-lengths // PAGE_ROWS)
        fresh = slab.take(int(needed.sum()))
        try:
            starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(needed)])
            chain = _Chain(PageOwner(slab))
            table = _Table(starts, fresh)
            made = DeviceLists(self.codec, self.ground, chain, 0, table, lengths)
        except BaseException:
            slab.give(fresh)
            raise
        chain.owner.keep(fresh)
        return made

    def _fetched(self) -> Iterator[ListContents]:
        """Yield the rows of a few pages at a time."""
        slab, layout = self.prepared.slab, self.prepared.view.layout
        list_of = np.repeat(np.arange(len(self.lengths), dtype=np.int32), self._table.counts())
        first_slot = (np.arange(len(list_of)) - self._table.starts[list_of]) * PAGE_ROWS
        step = max(1, FETCH_BYTES // layout.page_bytes)
        with self.ground.spaces.one() as space:
            for first in range(0, len(list_of), step):
                part = slice(first, first + step)
                rows = PageRows(layout, fetch(slab, self._table.pages[part], space))
                slots = first_slot[part, None] + np.arange(PAGE_ROWS)
                used = (slots < self.lengths[list_of[part], None]).reshape(-1)
                yield ListContents(
                    np.repeat(list_of[part], PAGE_ROWS)[used],
                    rows.row_ids()[used].astype(np.int64),
                    rows.codes()[used],
                    rows.bias()[used],
                    rows.gain()[used],
                )

    def _extended(self, lengths: I64, *, own: bool) -> tuple[_Table, U64]:
        """Take pages for ``lengths``; return the table with them, and what was taken.

        In pages that are not our own, half-filled ones that get rows are replaced as well.
        """
        needed = -(-lengths // PAGE_ROWS)
        fresh = self.prepared.slab.take(int((needed - self._table.counts()).sum()))
        table = self._table.grown(needed, fresh)
        if own:
            return table, fresh
        half = self._half_filled(lengths)
        try:
            copies = self.prepared.slab.take(len(half))
        except BaseException:
            self.prepared.slab.give(fresh)
            raise
        pages = table.pages.copy()
        pages[table.starts[half] + self.lengths[half] // PAGE_ROWS] = copies
        return _Table(table.starts, pages), np.concatenate([fresh, copies])

    def _half_filled(self, lengths: I64) -> I64:
        return np.flatnonzero((lengths > self.lengths) & (self.lengths % PAGE_ROWS > 0))

    def _copy_half_pages(self, table: _Table, fresh: U64, space: Workspace) -> None:
        """Fill the replaced pages with what the old ones held."""
        slab = self.prepared.slab
        places = table.starts[:-1] + self.lengths // PAGE_ROWS
        held = np.flatnonzero(self.lengths % PAGE_ROWS > 0)
        old = self._table.pages[self._table.last_pages(held)]
        new = table.pages[places[held]]
        for number in np.flatnonzero(old != new).tolist():
            source, at = slab.located(int(old[number]))
            target, to = slab.located(int(new[number]))
            space.device.copy(source, at, target, to, slab.page_bytes, space.stream)

    def _slots(self, list_ids: I32) -> I64:
        """Return the slot that each row of a batch gets in its list, i64[n]."""
        order = np.argsort(list_ids, kind="stable")
        ordered = list_ids[order]
        first = np.searchsorted(ordered, ordered)
        slots = np.empty(len(order), np.int64)
        slots[order] = self.lengths[ordered] + np.arange(len(order)) - first
        return slots

    def _described(self) -> tuple[Buffer, ListsView]:
        """Upload starts, lengths and pages."""
        arrays: tuple[AnyArray, ...] = (
            self._table.starts[:-1].astype(np.int32),
            self.lengths.astype(np.int32),
            self._table.pages,
        )
        parts = Parts()
        offsets = [parts.add(array.nbytes) for array in arrays]
        buffer = self.ground.budget.need(max(1, parts.nbytes), "tables of lists")
        with self.ground.spaces.one() as space:
            for array, offset in zip(arrays, offsets, strict=True):
                space.device.upload(array, buffer, offset, space.stream)
            space.stream.synchronize()
        return buffer, ListsView(*(buffer.address + offset for offset in offsets))


def _counts(list_ids: I32, nlist: int) -> I64:
    return np.bincount(list_ids, minlength=nlist).astype(np.int64)
