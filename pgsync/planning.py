"""What the sidecar decides, as pure functions of what it knows: no clock, no socket.

Invariants:

- Streaming starts only where the index is known to hold everything that committed before; in any
  doubt the table is copied again.
- A batch leaves as soon as nothing is on its way and there is something to say.
- A table rewritten without row changes in the stream (ALTER TABLE ... TYPE) is noticed.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ResyncNeeded, SinkUnavailable, SourceUnavailable
from .slots import SlotState

#: Phases in which the server has no complete copy.
_INCOMPLETE_PHASES = frozenset({"new", "copying", "resync"})

#: A bare watermark is not worth more than a hundred requests a second.
WATERMARK_INTERVAL_S = 0.01

#: The server hears from a living sidecar at least this often.
HEARTBEAT_S = 1.0

#: On a quiet stream the log that others write is released about this often.
DURABLE_INTERVAL_S = 10.0

#: Rows and bytes of one batch. Smaller ones are seen sooner, larger ones cost less for each row.
#: So much of a transaction is sent ahead of its commit.
BATCH_ROWS = 20_000
BATCH_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class StartPlan:
    """How to go on with an index: copy it anew as ``epoch``, or stream from ``start_lsn``."""

    copy: bool
    epoch: int
    start_lsn: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What server and source say about one index before a start.

    ``altered`` says that the table or its publication may have changed since the slot's position
    in a way that sends no row changes.
    """

    phase: str
    epoch: int
    durable_lsn: int
    known_system_id: str | None
    system_id: str
    slot: SlotState | None
    altered: bool = False


def plan_start(standing: Standing) -> StartPlan:
    """Decide between a new copy and the stream; ``reason`` says why, for people."""
    reason = _copy_reason(standing)
    if reason:
        return StartPlan(True, standing.epoch + 1, 0, reason)
    return StartPlan(False, standing.epoch, standing.durable_lsn, "the copy is complete")


def _copy_reason(standing: Standing) -> str | None:
    if standing.phase in _INCOMPLETE_PHASES:
        return f"the index is in phase {standing.phase}"
    if standing.known_system_id not in {None, standing.system_id}:
        return "the source is another cluster than the one copied from"
    slot = standing.slot
    if slot is None:
        return "the replication slot is missing"
    if slot.lost or slot.confirmed_flush_lsn is None:
        return f"the replication slot is lost ({slot.invalidation_reason or slot.wal_status})"
    if standing.durable_lsn < slot.confirmed_flush_lsn:
        # Postgres would move the start up to the confirmed position without a word.
        return "the index is older than what Postgres was told to forget"
    return "the table or its publication was altered meanwhile" if standing.altered else None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedState:
    """Where a stream and its server are; ages in seconds."""

    pending_rows: int
    pending_bytes: int
    in_transaction: bool
    watermark_lsn: int
    sent_watermark_lsn: int
    durable_lsn: int
    since_post_s: float
    since_sync_s: float


@dataclass(frozen=True, slots=True)
class PostPlan:
    """Send now (``flush``: all complete transactions; ``sync``: durably), or wait ``wait_s``."""

    send: bool
    flush: bool = True
    sync: bool = False
    wait_s: float = 0.0


def next_post(state: FeedState) -> PostPlan:
    """Decide what to send next; called when nothing is on its way to the server."""
    moved = state.watermark_lsn > state.sent_watermark_lsn
    if state.pending_rows and (moved or not state.in_transaction):
        return PostPlan(True)
    if state.pending_rows >= BATCH_ROWS or state.pending_bytes >= BATCH_BYTES:
        return PostPlan(True, flush=False)
    quiet_s = HEARTBEAT_S - state.since_post_s
    if quiet_s <= 0 or (_sync_due(state) and not state.in_transaction):
        return PostPlan(True, sync=_sync_due(state))
    if moved:
        wait_s = WATERMARK_INTERVAL_S - state.since_post_s
        return PostPlan(wait_s <= 0, wait_s=max(wait_s, 0.0))
    return PostPlan(False, wait_s=quiet_s)


def _sync_due(state: FeedState) -> bool:
    behind = state.watermark_lsn > state.durable_lsn
    return behind and state.since_sync_s >= DURABLE_INTERVAL_S


@dataclass(frozen=True, slots=True)
class TableShape:
    """What changes when a table is rewritten or altered below the stream.

    ``storage`` is (relation oid, relfilenode) of the table and its partitions, ``vector`` is
    (attribute number, type oid, type modifier) of the mirrored column.
    """

    storage: tuple[tuple[int, int], ...]
    vector: tuple[int, int, int] | None


class ShapeWatch:
    """Tells a rewrite, which sends nothing, from a TRUNCATE, which the stream carries.

    Both give the table new storage. When that is seen at LSN x, the stream is followed to x: with
    a TRUNCATE on the way all is well, without one the table has to be copied again.
    """

    def __init__(self, shape: TableShape) -> None:
        self._shape = shape
        self._suspect: TableShape | None = None
        self._seen_at_lsn = 0
        self._truncated = False

    @property
    def suspicious(self) -> bool:
        """Whether new storage is not explained yet; nothing may be confirmed meanwhile."""
        return self._suspect is not None

    def observe(self, shape: TableShape, flushed_lsn: int) -> None:
        """Take a look at the catalog at ``flushed_lsn``; raise ResyncNeeded."""
        if shape.vector != self._shape.vector:
            raise ResyncNeeded("the mirrored column was altered; the table is copied again")
        members = [oid for oid, _ in shape.storage]
        if members != [oid for oid, _ in self._shape.storage]:
            raise ResyncNeeded("a partition was attached or detached; the table is copied again")
        if shape.storage != (self._suspect or self._shape).storage:
            self._suspect, self._seen_at_lsn = shape, flushed_lsn

    def truncated(self) -> None:
        """Learn that the stream brought a TRUNCATE."""
        self._truncated = True

    def advance(self, watermark_lsn: int) -> None:
        """Learn how far the stream is; raise ResyncNeeded when new storage stays unexplained."""
        if self._suspect is None or watermark_lsn < self._seen_at_lsn:
            return
        if not self._truncated:
            raise ResyncNeeded("the table was rewritten; it is copied again")
        self._shape, self._suspect, self._truncated = self._suspect, None, False


def retry_delay_s(error: Exception, attempt: int) -> float:
    """Return how long to wait after the ``attempt``-th failure in a row (from 1), in seconds.

    What is away may be back at any moment; what needs a person's hand is tried every minute.
    """
    doubled = float(2 ** min(attempt - 1, 10))
    if isinstance(error, SourceUnavailable | SinkUnavailable):
        return min(0.2 * doubled, 10.0)
    if isinstance(error, ResyncNeeded):
        return min(0.5 * doubled, 60.0)
    return min(2.0 * doubled, 60.0)
