"""Mirror: one mirrored column, kept in step with its table and searchable at every moment.

A batch goes through three stations, in the same order as all others:

    admission lock   does it fit? append it to the journal, enqueue it
    journal.sync     one fsync for every batch that waits; no lock of ours is held
    writer lock      take the queue up to and with one's own batch: stage, apply, publish

Invariants:

- A batch is journaled before any of its changes is visible, and fsynced before it is acknowledged.
- ``durable_lsn`` counts journaled watermarks only, so a restart never answers a lower one.
- Searches read ``state`` and take no lock.
- After an unexpected error the last published state serves on; changes are refused until a restart,
  which starts from the disk.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition, Event, Lock

import pyarrow as pa
import structlog

from gpu.backend import Backend
from gpu.sample import MEMORY_BYTES
from gpu.state import IndexState
from gpu.trained import Trained
from pgsync.changes import BatchKind, ChangeBatch, change_schema

from . import snapshot as snapshots
from .acks import Ack
from .apply import Applier
from .batches import Changes, no_changes, read_batch, read_changes
from .compaction import Compaction
from .description import Heard, describe_files, describe_rows
from .errors import MirrorFailed, PinConflict, ResyncRequired, ServerError, StaleEpoch, StaleIndex
from .failed import FailedMirror
from .journal import DEFAULT_SEGMENT_BYTES, Journal
from .journal_format import RecordKind
from .pins import Pin, Pins
from .recovery import next_durable_lsn, recover
from .spec import IndexSpec
from .state import MirrorState
from .upkeep import Upkeep
from .verifying import DEFAULT_BATCH_ROWS, hashed_rows
from .waiters import Callback, Waiters

log = structlog.get_logger("vecmirror.mirror")

_KINDS = {
    BatchKind.COPY_BEGIN: RecordKind.COPY_BEGIN,
    BatchKind.COPY: RecordKind.COPY,
    BatchKind.COPY_END: RecordKind.COPY_END,
    BatchKind.CHANGES: RecordKind.CHANGES,
}
#: Snapshots kept: if the newest cannot be read, the one before it and the journal do.
_KEPT_SNAPSHOTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorOptions:
    """When a mirror does what by itself.

    A snapshot is written after ``snapshot_bytes`` of journal or ``snapshot_age_s`` seconds, if
    anything changed. A watermark without changes is journaled every ``watermark_sync_s`` seconds,
    so that an idle table does not keep the source's WAL. ``encode_slice_rows`` bounds how long
    encoding keeps a change batch waiting. Dead rows are forgotten when there are more than
    ``compact_dead_rows`` and they are more than ``compact_dead_share`` of all.
    ``training_memory_bytes`` bounds what training takes besides the index it makes. Training,
    compaction and the like rest ``rest_factor`` times as long as they took before they come again.
    ``background`` False leaves everything to the caller. ``backend`` searches; None takes the best
    one here.
    """

    segment_bytes: int = DEFAULT_SEGMENT_BYTES
    snapshot_bytes: int = 256 << 20
    snapshot_age_s: float = 900.0
    watermark_sync_s: float = 10.0
    encode_slice_rows: int = 2048
    compact_dead_rows: int = 10_000
    compact_dead_share: float = 1 / 3
    training_memory_bytes: int = MEMORY_BYTES
    rest_factor: float = 5.0
    background: bool = True
    backend: Backend | None = None


@dataclass(slots=True, eq=False)
class _Entry:
    """An admitted batch on its way to the writer; ``seq`` 0: not in the journal."""

    batch: ChangeBatch
    changes: Changes
    seq: int
    repeated: bool = False
    taken: bool = False
    error: ServerError | None = None


@dataclass(slots=True)
class _Journaled:
    """What the journal tells about the stream: the last watermark, the last change, and when."""

    watermark_lsn: int
    change_lsn: int
    at_s: float

    def completed_by(self, watermark_lsn: int) -> bool:
        """Tell whether a watermark is the commit of changes that wait for one."""
        return self.watermark_lsn <= self.change_lsn < watermark_lsn

    def note(self, batch: ChangeBatch, changes: Changes, now_s: float) -> None:
        """Note a batch that went into the journal."""
        self.at_s = now_s
        if batch.kind is BatchKind.COPY_END:
            self.watermark_lsn, self.change_lsn = batch.watermark_lsn, 0
        elif batch.kind is BatchKind.CHANGES:
            self.watermark_lsn = max(self.watermark_lsn, batch.watermark_lsn)
            self.change_lsn = max(self.change_lsn, changes.last[0] if len(changes) else 0)


class Mirror:
    """One index. Every public method may be called from any thread."""

    def __init__(
        self,
        path: Path,
        spec: IndexSpec,
        options: MirrorOptions | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the index whose files lie in ``path``; raise StorageError or JournalCorrupt."""
        self.spec, self.options = spec, options or MirrorOptions()
        self.failed: str | None = None
        self._clock = clock
        self._schema = change_schema(spec.table)
        self._admission, self._writer, self._snapshots_lock = Lock(), Lock(), Lock()
        self._received = Condition(self._writer)
        self._queue: deque[_Entry] = deque()
        self._waiters, self._pins = Waiters(), Pins(time.monotonic)
        self._opened_s = clock()
        self._applier = Applier(spec, self._waiters.wake, self.options.backend)
        self._heard = Heard(self._applier, clock)
        self._snapshots = path / "snapshots"
        snapshots.clear_unfinished(self._snapshots)
        self._journal = Journal(path / "journal", segment_bytes=self.options.segment_bytes)
        self._durable_lsn, self._snapshot_position = recover(
            self._applier, self._journal, self._snapshots, self._heard.note
        )
        self._admitted = replace(self._applier.feed)
        self._journaled = _Journaled(self._durable_lsn, self._applier.staged_lsn, self._opened_s)
        saved_to = self._snapshot_position.journal_seq if self._snapshot_position else 1
        unsaved = self._journal.next_seq > saved_to
        self._unsaved_bytes = self._journal.bytes_on_disk() if unsaved else 0
        self._upkeep = Upkeep(self)
        if self.options.background:
            self._upkeep.start()

    @property
    def state(self) -> MirrorState:
        """The state published last; immutable."""
        return self._applier.state

    def submit(self, body: bytes | memoryview, *, sync: bool = False) -> Ack:
        """Journal, fsync and apply one change batch; blocking.

        ``sync`` makes even a batch without rows durable, so that its watermark counts. Raises
        BadBatch, StaleEpoch, ResyncRequired, StorageFull, StorageError or MirrorFailed.
        """
        batch = read_batch(body, self._schema)
        changes = read_changes(batch, self.spec)
        with self._admission:
            entry = self._admit(body, batch, changes, sync)
        if entry.repeated or batch.kind in (BatchKind.COPY_END, BatchKind.CHANGES):
            self._journal.sync(entry.seq)
        with self._writer:
            self._take_until(entry)
        if entry.error is not None:
            raise entry.error
        return Ack(self._durable_lsn, self.state.applied_lsn, self._applier.feed.newest)

    def wait_applied(self, lsn: int, timeout_s: float) -> MirrorState:
        """Return a state that has applied ``lsn``; raise StaleIndex after ``timeout_s``."""
        applied = Event()
        token = self.add_waiter(lsn, lambda _: applied.set())
        try:
            if not applied.wait(timeout_s):
                raise StaleIndex(self.state.applied_lsn, lsn)
        finally:
            self.remove_waiter(token)
        return self.state

    def add_waiter(self, lsn: int, callback: Callback) -> int:
        """Call ``callback`` once when ``lsn`` is applied, maybe at once, from any thread.

        For asyncio, call ``loop.call_soon_threadsafe`` inside it. Returns a token.
        """
        token = self._waiters.add(lsn, callback)
        self._waiters.wake(self.state)
        return token

    def remove_waiter(self, token: int) -> None:
        """Forget a waiter; harmless if it was called already."""
        self._waiters.remove(token)

    def describe(self) -> dict[str, object]:
        """Return the JSON of ``GET /v1/indexes/{name}``."""
        return {
            "name": self.spec.name,
            "spec": self.spec.to_json(),
            "metric": self.spec.metric,
            "dim": self.spec.table.dim,
            "failed": self.failed,
            **describe_rows(self._applier, self._upkeep),
            **self._heard.describe(self._durable_lsn),
            **describe_files(
                self._snapshots,
                self._snapshot_position,
                self._clock(),
                self._journal.bytes_on_disk(),
            ),
        }

    def start_training(self) -> bool:
        """Start training in the background; False when one runs already or there are no rows."""
        return self._upkeep.start_training()

    def encode_some(self, limit_rows: int) -> int:
        """Move up to ``limit_rows`` rows of the flat tail into lists; return how many."""
        with self._writer:
            if self.failed is not None:
                return 0
            encoded = self._applier.contents.index.encode_pending(limit_rows)
            if encoded:
                self._applier.refresh()
            return encoded

    def adopt(self, trained: Trained, made_from: IndexState) -> bool:
        """Swap to a codec or to lists made from a state; False if its rows were replaced since."""
        with self._writer:
            index = self._applier.contents.index
            if self.failed is not None or index.state.rows is not made_from.rows:
                return False
            index.adopt(trained)
            self._applier.refresh()
            return True

    def begin_compaction(self) -> Compaction:
        """Begin to make contents without dead rows from those of this moment."""
        with self._writer:
            self._check_failed()
            return self._applier.begin_compaction()

    def end_compaction(self, compaction: Compaction) -> bool:
        """Swap to what a compaction has built; False if a copy replaced the rows meanwhile."""
        with self._writer:
            self._check_failed()
            swapped = self._applier.end_compaction(compaction)
            self._unsaved_bytes += swapped  # the next snapshot is due: it will be smaller
            return swapped

    def compact(self, pause: Callable[[], None] = lambda: None) -> bool:
        """Forget dead rows while changes and searches go on; blocking, whatever ``pause`` raises.

        False if a copy replaced the rows meanwhile. Raises MirrorFailed and engine errors.
        """
        compaction = self.begin_compaction()
        try:
            compaction.build(pause)
            if not self.end_compaction(compaction):
                return False
            compaction.dispose()
            return True
        finally:
            with self._writer:
                self._applier.drop_compaction(compaction)

    def compaction_due(self) -> bool:
        """Tell whether dead rows should be forgotten by the options."""
        contents, options = self._applier.contents, self.options
        bound = max(options.compact_dead_rows, options.compact_dead_share * contents.rows_ever)
        return self.state.phase == "live" and contents.dead_rows > bound

    def snapshot(self) -> int:
        """Write a snapshot now and drop what it makes superfluous; return the LSN in it. Blocking.

        Raises StorageFull or StorageError; the older snapshots and the journal are then as before.
        """
        with self._snapshots_lock:
            self._journal_watermark()
            pinned = self._capture()
            snapshots.write_snapshot(self._snapshots, pinned)
            self._snapshot_position = pinned.position
            self._retire()
            return pinned.position.applied_lsn

    def snapshot_due(self) -> bool:
        """Tell whether a snapshot should be written by the options."""
        if self._unsaved_bytes == 0 or self._applier.copy is not None or self.failed is not None:
            return False
        position = self._snapshot_position
        taken_s = self._opened_s if position is None else position.taken_at_s
        aged = self._clock() - taken_s >= self.options.snapshot_age_s
        return aged or self._unsaved_bytes >= self.options.snapshot_bytes

    def pin(self) -> Pin:
        """Hold apply for a verification; raise PinConflict while another pin does."""
        with self._writer:
            self._check_failed()
            pin = self._pins.add()
            self._applier.held = True
            return pin

    def fix(self, pin_id: str, lsn: int, timeout_s: float = 0.0) -> Pin:
        """Make exactly the changes below ``lsn`` visible, keep that state in the pin, let go.

        Waits until everything below ``lsn`` was received. Raises UnknownPin, PinConflict when the
        pin is fixed already or ``lsn`` has been passed, StaleIndex after ``timeout_s``.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._writer:
            while self._pins.get(pin_id).state is None and self._applier.received_lsn < lsn:
                if not self._received.wait(max(0.0, deadline_s - time.monotonic())):
                    raise StaleIndex(self._applier.received_lsn, lsn)
            pin = self._pins.get(pin_id)
            if pin.state is not None or lsn < self.state.applied_lsn:
                raise PinConflict("the index has passed that position; make a new pin")
            self._release(lsn)
            self._pins.fix(pin, self.state)
            self._let_go()
            return pin

    def pin_rows(
        self, pin_id: str, batch_rows: int = DEFAULT_BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """Return the (key, hash) rows of a fixed pin; raise UnknownPin or PinConflict."""
        with self._writer:
            state = self._pins.get(pin_id).state
        if state is None:
            raise PinConflict("the pin has no position yet")
        return hashed_rows(state, batch_rows)

    def unpin(self, pin_id: str) -> None:
        """Let a pin go; raise UnknownPin."""
        with self._writer:
            self._pins.remove(pin_id)
            self._let_go()

    def expire_pins(self) -> None:
        """Let apply go on where the lease of a holding pin has run out."""
        with self._writer:
            self._let_go()

    def close(self) -> None:
        """Stop background work and close the journal. Closing twice is harmless."""
        self._upkeep.close()
        with self._snapshots_lock, self._admission, self._writer:
            self.failed = self.failed or "it is closed"
            self._journal.close()

    def _admit(
        self, body: bytes | memoryview, batch: ChangeBatch, changes: Changes, sync: bool
    ) -> _Entry:
        """Check a batch against what came before, journal it and put it in the queue."""
        self._check_failed()
        entry = _Entry(batch, changes, 0, repeated=self._admitted.is_repeat(batch))
        if entry.repeated:
            entry.seq = self._journal.next_seq - 1
        else:
            self._admitted.check(batch)
            if self._must_journal(batch, sync):
                entry.seq = self._append(body, batch)
                self._journaled.note(batch, changes, self._clock())
            self._admitted.take(batch)
        self._queue.append(entry)
        return entry

    def _must_journal(self, batch: ChangeBatch, sync: bool) -> bool:
        if batch.rows.num_rows or batch.kind is not BatchKind.CHANGES:
            return True
        if self._journaled.completed_by(batch.watermark_lsn):
            return True
        elapsed_s = self._clock() - self._journaled.at_s
        due = sync or elapsed_s >= self.options.watermark_sync_s
        return due and batch.watermark_lsn > self._durable_lsn

    def _append(self, body: bytes | memoryview, batch: ChangeBatch) -> int:
        if batch.kind is BatchKind.COPY_END:
            # Copied rows are not synced one by one; the record that makes them count comes after.
            self._journal.sync(self._journal.next_seq - 1)
        seq = self._journal.append(_KINDS[batch.kind], body)
        self._unsaved_bytes += len(body)
        return seq

    def _take_until(self, last: _Entry) -> None:
        """Take the queue up to and with ``last``, in order; another thread may have done so."""
        if self._applier.held:
            self._let_go()
        while not last.taken:
            entry = self._queue.popleft()
            entry.taken = True
            if not entry.repeated:
                self._take(entry)
        self._received.notify_all()

    def _take(self, entry: _Entry) -> None:
        batch = entry.batch
        if batch.kind is BatchKind.COPY_BEGIN:
            self._pins.stop_holding()
        try:
            self._check_failed()
            self._applier.take(batch, entry.changes, entry.seq)
        except ServerError as error:
            entry.error = error
            self._note_lost()
            return
        except Exception as error:  # half a change may be in the contents: stop here
            entry.error = self._fail(error)
            return
        if entry.seq:
            self._durable_lsn = next_durable_lsn(self._durable_lsn, batch)
        self._heard.note(batch)

    def _release(self, lsn: int) -> None:
        """Make staged changes below ``lsn`` visible outside of a batch."""
        try:
            self._applier.release(lsn)
        except ResyncRequired:
            self._note_lost()
            raise
        except Exception as error:  # as in _take
            raise self._fail(error) from error

    def _let_go(self) -> None:
        """Let apply go on unless a pin still holds it."""
        if self._applier.held and not self._pins.holding:
            self._applier.held = False
            try:
                self._release(self._applier.received_lsn)
            except ServerError as error:
                log.warning("changes refused", index=self.spec.name, reason=str(error))

    def _note_lost(self) -> None:
        """Admit no more changes of a copy that cannot be continued."""
        if self._admitted.epoch == self._applier.feed.epoch:
            self._admitted.lost = self._applier.feed.lost

    def _fail(self, error: Exception) -> MirrorFailed:
        log.exception("index failed", index=self.spec.name)
        self.failed = f"{type(error).__name__} while applying changes; restart the server"
        failure = MirrorFailed(self.spec.name, self.failed)
        failure.__cause__ = error
        return failure

    def _check_failed(self) -> None:
        if self.failed is not None:
            raise MirrorFailed(self.spec.name, self.failed)

    def _journal_watermark(self) -> None:
        """Journal the applied watermark, so that no snapshot is ahead of the journal."""
        state, feed = self.state, self._applier.feed
        if state.phase != "live" or state.applied_lsn <= self._durable_lsn:
            return
        batch = ChangeBatch(
            kind=BatchKind.CHANGES,
            epoch=state.epoch,
            watermark_lsn=state.applied_lsn,
            source_lsn=self._heard.source_lsn,
            system_id=feed.system_id or "",
            rows=no_changes(self.spec.table),
        )
        try:
            self.submit(batch.to_ipc(), sync=True)
        except (StaleEpoch, ResyncRequired):
            log.info("a new copy began meanwhile", index=self.spec.name)

    def _capture(self) -> snapshots.Capture:
        """Pin what a snapshot holds; no batch is admitted or applied in that moment."""
        with self._admission, self._writer:
            self._check_failed()
            applier, feed = self._applier, self._applier.feed
            queued = [entry.seq for entry in self._queue if entry.seq]
            position = snapshots.Position(
                epoch=feed.epoch,
                applied_lsn=applier.applied_lsn,
                source_lsn=self._heard.source_lsn,
                journal_seq=applier.oldest_needed_seq(min([self._journal.next_seq, *queued])),
                system_id=feed.system_id,
                lost=feed.lost,
                taken_at_s=self._clock(),
            )
            self._unsaved_bytes = 0
            return snapshots.capture(applier.contents, position)

    def _retire(self) -> None:
        """Remove old snapshots and the journal that no snapshot needs."""
        paths = snapshots.listed(self._snapshots)
        for path in paths[:-_KEPT_SNAPSHOTS]:
            snapshots.remove(path)
        kept = paths[-_KEPT_SNAPSHOTS:]
        if len(kept) == _KEPT_SNAPSHOTS:
            self._journal.drop_before(snapshots.read_position(kept[0]).journal_seq)


#: What the catalog gives out.
MirrorLike = Mirror | FailedMirror
