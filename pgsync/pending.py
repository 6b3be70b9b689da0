"""PendingRows: rows whose commit LSN is known, on their way into batches.

Invariants:

- Rows leave in the order in which they came.
- A block's watermark is not above the commit LSN of any row that comes after it.
- Bytes and rows of a batch are bounded, but for a batch of one row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import pyarrow as pa

from .layout import RelationLayout
from .row_blocks import RowBlock, RowRun
from .row_messages import decode_row_messages
from .values import RowDecoder


class PendingRows:
    """Collects rows of consecutive transactions and hands them out as decoded record batches."""

    def __init__(self, decoder: RowDecoder, *, batch_rows: int, batch_bytes: int) -> None:
        self._decoder = decoder
        self._batch_rows, self._batch_bytes = batch_rows, batch_bytes
        self._run: RowRun | None = None
        self._commit_lsn = self._ordinal = 0
        self._blocks: deque[RowBlock] = deque()
        self._block_rows = self._block_bytes = 0

    @property
    def n_rows(self) -> int:
        """Return the number of rows that wait."""
        return self._block_rows + (self._run.n_rows if self._run else 0)

    @property
    def n_bytes(self) -> int:
        """Return the bytes they took on the wire."""
        return self._block_bytes + (len(self._run.data) if self._run else 0)

    def begin(self, commit_lsn: int) -> None:
        """Say that the next rows belong to the transaction with this commit LSN."""
        self._commit_lsn, self._ordinal = commit_lsn, 0

    def append(
        self, layout: RelationLayout, payload: bytes | memoryview, watermark_lsn: int
    ) -> None:
        """Take one row message; ``watermark_lsn`` is at or below the transaction's commit LSN."""
        run = self._run
        if run is None or run.layout is not layout:
            self._close_run(watermark_lsn)
            run = self._run = RowRun(layout)
        run.append(payload, self._commit_lsn, self._ordinal)
        self._ordinal += 1
        if len(run.data) >= self._batch_bytes or run.n_rows >= self._batch_rows:
            self._close_run(watermark_lsn)

    def complete(self) -> None:
        """Say that the commit of the last transaction has arrived."""
        if self._run is not None:
            self._run.complete_rows = self._run.n_rows

    def extend(self, blocks: Iterable[RowBlock], watermark_lsn: int) -> None:
        """Take the blocks of a streamed transaction; no other one may be open."""
        for block in blocks:
            self._close_run(watermark_lsn)
            self._queue(block)

    def clear(self) -> None:
        """Drop everything."""
        self._run = None
        self._blocks.clear()
        self._block_rows = self._block_bytes = 0

    def cut(self, watermark_lsn: int) -> None:
        """Make the rows of all complete transactions ready to leave."""
        run = self._run
        if run is None or not run.complete_rows:
            return
        if run.complete_rows == run.n_rows:
            self._close_run(watermark_lsn)
        else:
            done, self._run = run.split()
            self._queue(done.block(watermark_lsn))

    def _close_run(self, watermark_lsn: int) -> None:
        """Make all rows ready to leave, those of an open transaction too."""
        if self._run is not None and self._run.n_rows:
            self._queue(self._run.block(watermark_lsn))
        self._run = None

    def _queue(self, block: RowBlock) -> None:
        self._blocks.append(block)
        self._block_rows += block.n_rows
        self._block_bytes += block.n_bytes

    @property
    def ready(self) -> bool:
        """Whether any rows are ready to leave."""
        return bool(self._blocks)

    @property
    def full(self) -> bool:
        """Whether enough rows are ready for a full batch."""
        return self._block_rows >= self._batch_rows or self._block_bytes >= self._batch_bytes

    def pop(self) -> tuple[pa.RecordBatch, int]:
        """Return the next rows, as many as fit in a batch, and the watermark after them.

        Raises DecodeError and ResyncNeeded, and OSError when spilled rows cannot be read.
        """
        blocks = [self._pop_block()]
        rows, size = blocks[0].n_rows, blocks[0].n_bytes
        while self._blocks:
            rows, size = rows + self._blocks[0].n_rows, size + self._blocks[0].n_bytes
            if rows > self._batch_rows or size > self._batch_bytes:
                break
            blocks.append(self._pop_block())
        decoded = [decode_row_messages(self._decoder, block.load()) for block in blocks]
        return _concatenate(decoded), blocks[-1].watermark_lsn

    def _pop_block(self) -> RowBlock:
        block = self._blocks.popleft()
        self._block_rows -= block.n_rows
        self._block_bytes -= block.n_bytes
        return block


def _concatenate(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
