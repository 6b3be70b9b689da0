"""StreamedTransaction: the rows of a large transaction that is sent while it still runs.

Invariants:

- Nothing of it is seen before its Stream Commit, and nothing at all after its Stream Abort.
- Rows of a subtransaction that was rolled back never count: not as changes, not in ordinals.
- What Relation messages in it say holds outside only after it committed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .errors import ResyncNeeded
from .layout import RelationLayout
from .row_blocks import RowBlock
from .spill import SpilledBytes, SpillFile


class _HeldRows:
    """Row messages of one layout with the (sub)transaction of each, in memory or on disk."""

    __slots__ = ("data", "ends", "layout", "xids")

    def __init__(self, layout: RelationLayout) -> None:
        self.layout = layout
        self.data: bytearray | SpilledBytes = bytearray()
        self.ends = array("q")
        self.xids = array("Q")


class StreamedTransaction:
    """Rows of the top-level transaction ``xid``; ``layout`` is what it said of the relation."""

    def __init__(self, xid: int, *, block_bytes: int, block_rows: int) -> None:
        self.xid = xid
        self.layout: RelationLayout | ResyncNeeded | None = None
        self.memory_bytes = 0
        self._block_bytes, self._block_rows = block_bytes, block_rows
        self._held: list[_HeldRows] = []
        self._open: tuple[_HeldRows, bytearray] | None = None
        self._aborted: set[int] = set()
        self._unreadable: dict[int, ResyncNeeded] = {}
        self._file: SpillFile | None = None

    def add(
        self,
        layout: RelationLayout | ResyncNeeded,
        subxid: int,
        tag: bytes | memoryview,
        rest: bytes | memoryview,
    ) -> None:
        """Keep a row message: its tag, and what follows the transaction id."""
        if isinstance(layout, ResyncNeeded):
            self._unreadable.setdefault(subxid, layout)
            return
        if self._open is None or self._open[0].layout is not layout:
            self._open = self._start(layout)
        held, data = self._open
        data += tag
        data += rest
        held.ends.append(len(data))
        held.xids.append(subxid)
        self.memory_bytes += len(rest) + 1
        if len(data) >= self._block_bytes or len(held.ends) >= self._block_rows:
            self._open = None

    def _start(self, layout: RelationLayout) -> tuple[_HeldRows, bytearray]:
        held, data = _HeldRows(layout), bytearray()
        held.data = data
        self._held.append(held)
        return held, data

    def abort(self, subxid: int) -> None:
        """Forget the rows of a subtransaction."""
        self._aborted.add(subxid)

    def spill(self, directory: Path | None) -> None:
        """Move the bytes of all rows to disk; raise OSError when it does not take them."""
        self._open = None
        if self._file is None:
            self._file = SpillFile(directory)
        for held in self._held:
            if not isinstance(held.data, SpilledBytes):
                held.data = self._file.append(held.data)
        self.memory_bytes = 0

    def commit(self, commit_lsn: int, watermark_before: int, end_lsn: int) -> list[RowBlock]:
        """Return the rows that survive; the watermark passes the transaction with the last block.

        Raises ResyncNeeded when one of them cannot be read.
        """
        for subxid, error in self._unreadable.items():
            if subxid not in self._aborted:
                raise error
        survivors = list(self._survivors())
        blocks, ordinal = [], 0
        for i, (held, starts, ends) in enumerate(survivors, start=1):
            watermark = end_lsn if i == len(survivors) else watermark_before
            blocks.append(
                RowBlock(
                    layout=held.layout,
                    data=held.data,
                    starts=starts,
                    ends=ends,
                    commit_lsn=np.full(len(starts), commit_lsn, np.uint64),
                    ordinal=np.arange(ordinal, ordinal + len(starts), dtype=np.uint32),
                    watermark_lsn=watermark,
                )
            )
            ordinal += len(starts)
        return blocks

    def _survivors(self) -> Iterator[tuple[_HeldRows, np.ndarray, np.ndarray]]:
        aborted = np.array(sorted(self._aborted), np.uint64)
        for held in self._held:
            bounds = np.concatenate(([0], np.frombuffer(held.ends, np.int64)))
            alive = ~np.isin(np.frombuffer(held.xids, np.uint64), aborted)
            if alive.any():
                yield held, bounds[:-1][alive], bounds[1:][alive]
