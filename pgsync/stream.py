"""ChangeAssembler: replication messages in, ChangeBatches out.

Invariants:

- Rows leave in commit order; (commit_lsn, ordinal) of a change is the same however the transaction
  came: in one piece, streamed while it ran, or again after a restart.
- Every change with a commit LSN below a batch's watermark is in that batch or an earlier one.
- A transaction that lies before ``start_lsn`` is not sent again.
- A row that the table's spec cannot describe raises ResyncNeeded; it is never guessed at.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from .changes import BatchKind, ChangeBatch
from .errors import DecodeError, ResyncNeeded
from .layout import RelationLayout, layout_of
from .messages import (
    Begin,
    Commit,
    Message,
    Origin,
    PgOutputMessage,
    Relation,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Truncate,
    Type,
)
from .pending import PendingRows
from .pgoutput import decode
from .streamed import StreamedTransaction
from .table import TableSpec
from .values import RowDecoder

_ROW_TAGS = frozenset(b"IUD")
#: The tag, the relation id and the marker of a tuple.
_SHORTEST_ROW = 6


class ChangeAssembler:
    """Turns the messages of one replication stream into batches of changes of one table.

    Pure but for the spill files of streamed transactions; not thread-safe. After any exception it
    must be closed and thrown away, and the stream be started again from the durable LSN.

    A batch has about ``batch_rows`` rows or ``batch_bytes`` bytes at most. Streamed transactions
    that have not committed may take ``stream_memory_bytes`` before they go to ``spill_directory``
    (None: the system's).
    """

    def __init__(
        self,
        table: TableSpec,
        *,
        epoch: int,
        system_id: str,
        start_lsn: int,
        batch_rows: int = 50_000,
        batch_bytes: int = 32 << 20,
        stream_memory_bytes: int = 64 << 20,
        spill_directory: Path | None = None,
    ) -> None:
        self.table = table
        self._epoch, self._system_id = epoch, system_id
        self._start_lsn = self._watermark = self._taken_watermark = self._source_lsn = start_lsn
        decoder = RowDecoder(table)
        # A NULL or sparse vector takes its full size once it is decoded.
        batch_rows = max(1, min(batch_rows, batch_bytes // decoder.vector_bytes))
        self._pending = PendingRows(decoder, batch_rows=batch_rows, batch_bytes=batch_bytes)
        self._no_rows = pa.RecordBatch.from_pylist([], decoder.schema)
        self._batch_rows, self._batch_bytes = batch_rows, batch_bytes
        self._stream_memory_bytes, self._spill_directory = stream_memory_bytes, spill_directory
        self._relation = table.relation_id.to_bytes(4)
        self._type_names: dict[int, str] = {}
        self._layout: RelationLayout | ResyncNeeded | None = None
        self._commit_lsn: int | None = None
        self._skipping = False
        self._streamed: dict[int, StreamedTransaction] = {}
        self._stream: StreamedTransaction | None = None
        self._held_bytes = 0

    @property
    def watermark_lsn(self) -> int:
        """Every change with a commit LSN below this has been fed."""
        return self._watermark

    @property
    def source_lsn(self) -> int:
        """The newest position that the stream has named."""
        return max(self._source_lsn, self._watermark)

    @property
    def pending_rows(self) -> int:
        """Rows that wait for ``take``; those of uncommitted streamed transactions do not count."""
        return self._pending.n_rows

    @property
    def pending_bytes(self) -> int:
        """Wire bytes of the pending rows."""
        return self._pending.n_bytes

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction that is not streamed has begun and not committed."""
        return self._commit_lsn is not None

    def feed(self, wal_start: int, payload: bytes | memoryview) -> None:
        """Take one pgoutput message: an XLogData message without its 25-byte header.

        The payload is copied: it may be reused. Raises DecodeError and ResyncNeeded, and OSError
        when a streamed transaction cannot be spilled.
        """
        self._source_lsn = max(self._source_lsn, wal_start)
        if len(payload) and payload[0] in _ROW_TAGS:
            if self._stream is None:
                self._take_row(payload)
            else:
                self._hold_row(self._stream, payload)
        else:
            message = decode(payload, in_stream=self._stream is not None)
            self._take_message(message, payload)

    def keepalive(self, wal_end: int) -> None:
        """Take the ``wal_end`` of a primary keepalive message.

        Everything before it has been sent, so it moves the watermark, unless a transaction is half
        way through. A streamed one is no obstacle: its commit lies ahead.
        """
        self._source_lsn = max(self._source_lsn, wal_end)
        if self._commit_lsn is None:
            self._watermark = max(self._watermark, wal_end)

    def take(self, *, flush: bool = True, max_batches: int = 8) -> list[ChangeBatch]:
        """Return up to ``max_batches`` batches in commit order; call again until it returns none.

        With ``flush`` false only full batches leave (call this while more input is waiting). With
        ``flush`` true the rows of all complete transactions leave, and if there are none but the
        watermark has moved, one batch without rows. A full batch may hold changes of a transaction
        whose commit has not arrived yet; it does not raise the watermark above them.
        Raises DecodeError and ResyncNeeded.
        """
        pending = self._pending
        if flush:
            pending.cut(self._watermark)
        batches: list[ChangeBatch] = []
        while len(batches) < max_batches and (pending.ready if flush else pending.full):
            rows, watermark = pending.pop()
            drained = flush and not pending.ready
            batches.append(self._batch(rows, self._watermark if drained else watermark))
        if flush and not batches and self._watermark > self._taken_watermark:
            batches.append(self._batch(self._no_rows, self._watermark))
        return batches

    def _batch(self, rows: pa.RecordBatch, watermark_lsn: int) -> ChangeBatch:
        self._taken_watermark = watermark_lsn
        return ChangeBatch(
            kind=BatchKind.CHANGES,
            epoch=self._epoch,
            watermark_lsn=watermark_lsn,
            source_lsn=self.source_lsn,
            system_id=self._system_id,
            rows=rows,
        )

    def close(self) -> None:
        """Drop what is pending and remove spill files."""
        self._stream = None
        self._streamed.clear()
        self._pending.clear()

    # Rows

    def _take_row(self, payload: bytes | memoryview) -> None:
        if self._commit_lsn is None:
            raise DecodeError("row message", 0, "a row outside of any transaction")
        if payload[1:5] != self._relation:
            _refuse_short(payload, _SHORTEST_ROW)
            return
        if not self._skipping:
            self._append(payload)

    def _append(self, payload: bytes | memoryview) -> None:
        layout = self._layout
        if not isinstance(layout, RelationLayout):
            layout = _usable(layout)
        self._pending.append(layout, payload, self._watermark)

    def _hold_row(self, stream: StreamedTransaction, payload: bytes | memoryview) -> None:
        """Keep a row of a streamed transaction; its message carries a transaction id first."""
        if payload[5:9] != self._relation:
            _refuse_short(payload, _SHORTEST_ROW + 4)
            return
        layout = stream.layout or self._layout
        if layout is None:
            _usable(layout)
        else:
            stream.add(layout, int.from_bytes(payload[1:5]), payload[:1], payload[5:])
            self._held_bytes += len(payload)
            if self._held_bytes > self._stream_memory_bytes:
                self._spill_largest()

    def _spill_largest(self) -> None:
        transactions = self._streamed.values()
        max(transactions, key=lambda one: one.memory_bytes).spill(self._spill_directory)
        self._count_held()

    def _count_held(self) -> None:
        self._held_bytes = sum(one.memory_bytes for one in self._streamed.values())

    # Other messages

    def _take_message(self, message: PgOutputMessage, payload: bytes | memoryview) -> None:
        match message:
            case Begin():
                self._begin(message)
            case Commit():
                self._commit(message)
            case Relation():
                self._take_relation(message)
            case Type():
                self._type_names[message.type_oid] = message.name
            case Truncate():
                if self.table.relation_id in message.relation_ids:
                    self._take_truncate(payload)
            case StreamStart():
                self._start_stream(message)
            case StreamStop():
                self._stop_stream()
            case StreamCommit():
                self._commit_stream(message)
            case StreamAbort():
                self._abort_stream(message)
            case Origin() | Message():
                pass  # where a change came from does not matter; messages are not to be trusted
            case _:
                reason = "a prepared transaction; the slot must not have been made with TWO_PHASE"
                raise DecodeError(type(message).__name__, 0, reason)

    def _begin(self, message: Begin) -> None:
        self._require("Begin", self._commit_lsn is None and self._stream is None)
        self._commit_lsn = message.final_lsn
        self._skipping = message.final_lsn < self._start_lsn
        self._pending.begin(message.final_lsn)

    def _commit(self, message: Commit) -> None:
        self._require("Commit", self._commit_lsn == message.commit_lsn)
        self._commit_lsn = None
        self._pending.complete()
        self._watermark = max(self._watermark, message.end_lsn)

    def _take_relation(self, message: Relation) -> None:
        if message.relation_id != self.table.relation_id:
            return
        layout = self._layout_of(message)
        if self._stream is not None:
            self._stream.layout = layout
            return
        if isinstance(layout, ResyncNeeded) and not self._skipping:
            raise layout
        self._layout = layout

    def _layout_of(self, message: Relation) -> RelationLayout | ResyncNeeded:
        """Return the layout, the one at hand if it is equal; or why there is none.

        In a streamed transaction the reason counts only if the rows after it are committed.
        """
        try:
            layout = layout_of(self.table, message, self._type_names)
        except ResyncNeeded as reason:
            return reason
        return self._layout if self._layout == layout else layout

    def _take_truncate(self, payload: bytes | memoryview) -> None:
        if self._stream is not None:
            layout = self._stream.layout or self._layout
            xid = int.from_bytes(payload[1:5])
            self._stream.add(layout or _usable(None), xid, payload[:1], payload[5:])
            return
        self._require("Truncate", self._commit_lsn is not None)
        if not self._skipping:
            self._append(payload)

    def _start_stream(self, message: StreamStart) -> None:
        self._require("Stream Start", self._commit_lsn is None and self._stream is None)
        known = message.xid in self._streamed
        self._require("Stream Start", known != message.first_segment)
        if not known:
            self._streamed[message.xid] = StreamedTransaction(
                message.xid, block_bytes=self._batch_bytes, block_rows=self._batch_rows
            )
        self._stream = self._streamed[message.xid]

    def _stop_stream(self) -> None:
        self._require("Stream Stop", self._stream is not None)
        self._stream = None

    def _commit_stream(self, message: StreamCommit) -> None:
        known = message.xid in self._streamed
        self._require("Stream Commit", known and self._stream is None and self._commit_lsn is None)
        transaction = self._streamed.pop(message.xid)
        self._count_held()
        self._layout = transaction.layout or self._layout
        if message.commit_lsn >= self._start_lsn:
            end_lsn = max(self._watermark, message.end_lsn)
            blocks = transaction.commit(message.commit_lsn, self._watermark, end_lsn)
            self._pending.extend(blocks, self._watermark)
        self._watermark = max(self._watermark, message.end_lsn)

    def _abort_stream(self, message: StreamAbort) -> None:
        self._require("Stream Abort", self._stream is None and self._commit_lsn is None)
        if message.subxid == message.xid:
            self._streamed.pop(message.xid, None)
            self._count_held()
        elif message.xid in self._streamed:
            self._streamed[message.xid].abort(message.subxid)

    def _require(self, tag: str, in_order: bool) -> None:
        if not in_order:
            raise DecodeError(tag, 0, "a message that cannot come at this point of the stream")


def _usable(layout: RelationLayout | ResyncNeeded | None) -> RelationLayout:
    if layout is None:
        raise DecodeError("row message", 0, "no Relation message came before the row")
    if isinstance(layout, ResyncNeeded):
        raise layout
    return layout


def _refuse_short(payload: bytes | memoryview, least: int) -> None:
    if len(payload) < least:
        raise DecodeError("row message", len(payload), "the message ends too early")
