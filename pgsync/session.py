"""StreamSession: one index followed over one replication stream, until something ends it.

One thread: it reads from Postgres and posts, one batch at a time. While a post is on its way it
reads on, in large steps, and what it reads becomes the next batch. (With a thread for each side
every commit woke both of them several times.)

Invariants:

- Only an LSN that the server called durable is confirmed to Postgres, and only after a later look
  at the catalog found nothing that would make a new copy necessary.
- Memory is bounded: with ``MAX_PENDING_BYTES`` waiting for the server nothing more is read, while
  status messages go on.
- An error of the stream waits for the answer to a post on its way.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace

import pyarrow as pa

from .changes import BatchKind, ChangeBatch, Op, change_schema
from .planning import WATERMARK_INTERVAL_S, FeedState, PostPlan, ShapeWatch, next_post
from .sink import Sink
from .stream import ChangeAssembler
from .table import TableSpec
from .walsender import ReplicationStream
from .watch import SourceWatch

#: Changes read ahead of the server, in bytes of the wire.
MAX_PENDING_BYTES = 64 << 20

#: Input makes a walsender look again at the end of the log; this bounds a missed wake-up of its.
POKE_INTERVAL_S = 0.05

#: Messages taken at once: about ten milliseconds of work, for which an answer waits at most.
_DRAIN_MESSAGES = 4_096

#: A walsender sends every message by itself. While a post is on its way there is no hurry.
_READ_AHEAD_INTERVAL_S = 0.002

#: The catalog is looked at this often while there is something to confirm, and otherwise.
CONFIRM_INTERVAL_S = 1.0
LOOK_INTERVAL_S = 10.0


@dataclass(frozen=True, slots=True)
class Position:
    """Which copy of which index is followed, and the LSN it starts from."""

    index: str
    epoch: int
    durable_lsn: int


@dataclass(slots=True)
class Progress:
    """What a session has done so far; ``rows`` counts row changes delivered."""

    rows: int = 0
    posts: int = 0
    durable_lsn: int = 0


class StreamSession:
    """Runs until ``stop`` is set or an error ends it; owns none of its parts."""

    def __init__(
        self,
        stream: ReplicationStream,
        assembler: ChangeAssembler,
        sink: Sink,
        watch: SourceWatch,
        shapes: ShapeWatch,
        position: Position,
        stop: threading.Event,
    ) -> None:
        self._stream = stream
        self._assembler = assembler
        self._sink = sink
        self._index = position.index
        self._watch = watch
        self._shapes = shapes
        self._epoch = position.epoch
        self._stop = stop
        self._failure: Exception | None = None
        self._sent_watermark_lsn = position.durable_lsn
        self._source_lsn = 0
        now = time.monotonic()
        self._posted_s, self._synced_s, self._looked_s = 0.0, now, 0.0
        self.progress = Progress(durable_lsn=position.durable_lsn)

    def run(self) -> None:
        """Follow the stream; return when stopped. Raises SyncError."""
        while not self._stop.is_set():
            self._look_after_source()
            plan = self._plan()
            if plan.send:
                self._post(plan)
            else:
                self._read(plan.wait_s)
        self._look(time.monotonic())

    def _read(self, wait_s: float) -> None:
        """Take what has arrived; wait for it, but not for long."""
        if self._stream.wait(min(wait_s, POKE_INTERVAL_S)):
            self._stream.drain(self._assembler, _DRAIN_MESSAGES)
        elif wait_s >= POKE_INTERVAL_S:
            self._stream.poke()

    def _read_ahead(self) -> float:
        """Read while a post is on its way; return in how many seconds to do it again."""
        if self._failure is not None:
            return POKE_INTERVAL_S
        try:
            return self._read_some()
        except Exception as error:
            self._failure = error
            return POKE_INTERVAL_S

    def _read_some(self) -> float:
        if self._assembler.pending_bytes >= MAX_PENDING_BYTES:
            self._stream.poke()
            return POKE_INTERVAL_S
        arrived = self._stream.wait(0.0)
        taken = self._stream.drain(self._assembler, _DRAIN_MESSAGES) if arrived else 0
        return 0.0 if taken == _DRAIN_MESSAGES else _READ_AHEAD_INTERVAL_S

    def _plan(self) -> PostPlan:
        if self._failure is not None:
            raise self._failure
        now = time.monotonic()
        assembler = self._assembler
        return next_post(
            FeedState(
                pending_rows=assembler.pending_rows,
                pending_bytes=assembler.pending_bytes,
                in_transaction=assembler.in_transaction,
                watermark_lsn=assembler.watermark_lsn,
                sent_watermark_lsn=self._sent_watermark_lsn,
                durable_lsn=self.progress.durable_lsn,
                since_post_s=now - self._posted_s,
                since_sync_s=now - self._synced_s,
            )
        )

    def _post(self, plan: PostPlan) -> None:
        batches = self._assembler.take(flush=plan.flush)
        if not batches and not plan.flush:
            # What is pending is no full batch yet: the rest of the transaction is coming.
            return self._read(WATERMARK_INTERVAL_S)
        for batch in batches or [self._heartbeat()]:
            self._deliver(batch, plan.sync)
        self._read(0.0)

    def _heartbeat(self) -> ChangeBatch:
        """Return a batch without rows: the source's position alone."""
        return ChangeBatch(
            kind=BatchKind.CHANGES,
            epoch=self._epoch,
            watermark_lsn=self._sent_watermark_lsn,
            source_lsn=self._assembler.source_lsn,
            system_id=self._stream.identity.system_id,
            rows=empty_rows(self._assembler.table),
        )

    def _deliver(self, batch: ChangeBatch, sync: bool) -> None:
        self._source_lsn = max(self._source_lsn, batch.source_lsn)
        batch = replace(batch, source_lsn=self._source_lsn)
        receipt = self._sink.send(self._index, batch, sync=sync, meanwhile=self._read_ahead)
        self._posted_s = time.monotonic()
        if sync or receipt.durable_lsn >= batch.watermark_lsn:
            self._synced_s = self._posted_s
        self._sent_watermark_lsn = max(self._sent_watermark_lsn, batch.watermark_lsn)
        self.progress.durable_lsn = max(self.progress.durable_lsn, receipt.durable_lsn)
        self.progress.rows += batch.rows.num_rows
        self.progress.posts += 1
        if (batch.rows["op"].to_numpy() == Op.TRUNCATE).any():
            self._shapes.truncated()

    def _look_after_source(self) -> None:
        now = time.monotonic()
        to_confirm = self.progress.durable_lsn > self._stream.confirmed_lsn
        interval_s = CONFIRM_INTERVAL_S if to_confirm else LOOK_INTERVAL_S
        if now - self._looked_s >= interval_s:
            self._look(now)

    def _look(self, now: float) -> None:
        """Look at the catalog, then confirm what was durable before the look."""
        durable_lsn = self.progress.durable_lsn
        look = self._watch.look()
        self._watch.require_stream(look)
        self._source_lsn = max(self._source_lsn, look.flushed_lsn)
        self._shapes.observe(look.shape, look.flushed_lsn)
        self._shapes.advance(self._sent_watermark_lsn)
        if not self._shapes.suspicious:
            self._stream.confirm(durable_lsn)
        self._looked_s = now


def empty_rows(table: TableSpec) -> pa.RecordBatch:
    """Return the rows of a batch that has none."""
    return pa.RecordBatch.from_pylist([], schema=change_schema(table))
