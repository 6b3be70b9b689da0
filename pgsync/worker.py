"""IndexWorker: the state machine of one index. Copy it, follow it, and begin again after trouble.

    start -> copy -> stream -> (error) -> wait -> start
      |                ^
      +----------------+  the copy is complete and the slot continues it

Invariants:

- At most one sidecar works on an index: an advisory lock of the source says which.
- A slot that cannot continue the index is dropped, so that it does not hold the primary's log, and
  so that whoever starts next knows that a copy is needed.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psycopg
from psycopg.rows import TupleRow

from .changes import BatchKind, ChangeBatch
from .connections import connect, source_identity, translated
from .copy import CopyRequest, TableCopy
from .errors import ResyncNeeded, SinkUnavailable, SourceError, SourceUnavailable, SyncError
from .inspection import inspect_table
from .lsn import format_lsn
from .planning import (
    BATCH_BYTES,
    BATCH_ROWS,
    ShapeWatch,
    Standing,
    StartPlan,
    plan_start,
    retry_delay_s,
)
from .publication import check_publication
from .session import Position, StreamSession, empty_rows
from .sink import IndexDescription, Receipt, Sink
from .slots import create_slot, drop_slot, slot_state
from .stream import ChangeAssembler
from .table import TableSpec
from .walsender import ReplicationStream
from .watch import SourceWatch

#: A copy waits this long for a server that went away: its snapshot keeps dead rows from vacuum.
COPY_PATIENCE_S = 300.0

#: A session this long was healthy: its end is a new trouble, not a repeated one.
HEALTHY_S = 30.0

_PROGRESS_INTERVAL_S = 1.0

Emit = Callable[[str, dict[str, object]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Where the source and the index server are. The secrets are left out of ``repr``."""

    dsn: str = field(repr=False)
    server: str
    api_key: str | None = field(default=None, repr=False)
    server_uds: str | None = None
    copy_workers: int = 2
    failover_slots: bool = False


class IndexWorker:
    """Keeps one index in step until ``stop``; ``retire`` drops its slot as well."""

    def __init__(self, config: WorkerConfig, index: IndexDescription, emit: Emit) -> None:
        if index.slot is None or index.publication is None:
            raise ValueError("an index without slot and publication is not fed by a sidecar")
        self._config = config
        self.index = index
        self._name, self._slot, self._publication = index.name, index.slot, index.publication
        self._emit_event = emit
        self._stop = threading.Event()
        self._retired = False
        self._thread = threading.Thread(target=self._run, name=f"index-{index.name}", daemon=True)

    def start(self) -> None:
        """Start working in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the worker to stop; the slot stays, and with it the place to go on from."""
        self._stop.set()

    def retire(self) -> None:
        """Ask the worker to stop and drop the slot: the index is gone."""
        self._retired = True
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the worker's end; False when it did not come in time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the worker is still at work."""
        return self._thread.is_alive()

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._work()
            except Exception as error:
                failures = 1 if time.monotonic() - began > HEALTHY_S else failures + 1
                delay_s = self._report(error, failures)
                self._stop.wait(delay_s)
        if self._retired:
            self._drop_slot("the index was dropped")
        self._emit("stopped")

    def _report(self, error: Exception, failures: int) -> float:
        """Tell about an error, drop a slot that is of no use any more; return the delay."""
        delay_s = retry_delay_s(error, failures)
        if self._stop.is_set():
            return 0.0
        kind = type(error).__name__
        if isinstance(error, SyncError):
            self._emit("retrying", reason=str(error), delay_s=delay_s, kind=kind)
        else:
            # Where it happened is enough to find a defect; its message may quote row values.
            trace = "".join(traceback.format_tb(error.__traceback__)[-3:])
            reason = f"unexpected {kind}, a defect of Vecmirror"
            self._emit("retrying", reason=reason, delay_s=delay_s, kind=kind, trace=trace)
        if isinstance(error, ResyncNeeded):
            self._drop_slot("it cannot continue the index")
        return delay_s

    def _work(self) -> None:
        """Copy if need be, then stream until stopped. Raises SyncError."""
        config = self._config
        with (
            Sink(config.server, config.api_key, uds=config.server_uds) as sink,
            contextlib.closing(connect(config.dsn)) as conn,
            self._exclusive(conn),
        ):
            index = sink.describe(self._name)
            if index is None:
                return self.retire()
            table = self._current_table(conn, index.table)
            check_publication(conn, self._publication, table)
            watch = SourceWatch(conn, table, self._publication, self._slot)
            # The shape is taken before the snapshot: what is rewritten after it is noticed.
            shapes = ShapeWatch(watch.look().shape)
            plan, system_id = self._plan(conn, watch, index, table)
            if plan.copy:
                start_lsn = self._copy(conn, sink, table, plan, system_id)
                plan = StartPlan(False, plan.epoch, start_lsn, "the copy is complete")
            self._follow(sink, table, watch, shapes, plan)

    @contextlib.contextmanager
    def _exclusive(self, conn: psycopg.Connection[TupleRow]) -> Iterator[None]:
        """Hold the lock that makes this sidecar the only one; the connection's end frees it."""
        with translated("lock the index"):
            asked = "SELECT pg_catalog.pg_try_advisory_lock(hashtextextended(%s, 0))"
            row = conn.execute(asked, (f"vecmirror slot {self._slot}",)).fetchone()
        if row is None or not row[0]:
            raise SourceUnavailable(f"another sidecar works on index {self._name}")
        yield

    def _current_table(self, conn: psycopg.Connection[TupleRow], wanted: TableSpec) -> TableSpec:
        """Return the table as it is now; raise SourceError when the index no longer fits it."""
        schema, name = _current_name(conn, wanted)
        filters = [column.name for column in wanted.columns]
        try:
            found = inspect_table(conn, schema, name, wanted.vector_column, filters, dim=wanted.dim)
        except SourceUnavailable:
            raise
        except SourceError as error:
            raise SourceError(f"index {self._name} no longer fits its table: {error}") from error
        same = (found.vector_type, found.key, found.columns) == (
            wanted.vector_type,
            wanted.key,
            wanted.columns,
        )
        if not same:
            raise SourceError(
                f"index {self._name} no longer fits {found.qualified_name}: the type of a mirrored "
                "column or the key has changed; detach the index and attach it again"
            )
        return found

    def _plan(
        self,
        conn: psycopg.Connection[TupleRow],
        watch: SourceWatch,
        index: IndexDescription,
        table: TableSpec,
    ) -> tuple[StartPlan, str]:
        system_id = source_identity(self._config.dsn).system_id
        recreated = table.relation_id != index.table.relation_id
        plan = plan_start(
            Standing(
                phase=index.phase,
                epoch=index.epoch,
                durable_lsn=index.durable_lsn,
                known_system_id=index.system_id,
                system_id=system_id,
                slot=slot_state(conn, self._slot),
                altered=recreated or watch.look().altered,
            )
        )
        event = "copy_planned" if plan.copy else "stream_planned"
        self._emit(event, reason=plan.reason, epoch=plan.epoch)
        return plan, system_id

    def _copy(
        self,
        conn: psycopg.Connection[TupleRow],
        sink: Sink,
        table: TableSpec,
        plan: StartPlan,
        system_id: str,
    ) -> int:
        """Copy the table under a new slot's snapshot; return the slot's consistent point."""
        drop_slot(conn, self._slot)
        created = create_slot(
            self._config.dsn, self._slot, failover=self._config.failover_slots, stop=self._stop
        )
        try:
            with created:
                state = check_publication(conn, self._publication, table)
                request = CopyRequest(
                    dsn=self._config.dsn,
                    table=table,
                    snapshot=created.snapshot,
                    consistent_point=created.consistent_point,
                    system_id=system_id,
                    epoch=plan.epoch,
                    row_filter=state.row_filter,
                    workers=self._config.copy_workers,
                )
                copy = TableCopy(request)
            with copy:
                self._deliver_copy(sink, copy, request)
        except BaseException:
            self._drop_slot("the copy did not succeed")
            raise
        return created.consistent_point

    def _deliver_copy(self, sink: Sink, copy: TableCopy, request: CopyRequest) -> None:
        rows, told_s = 0, 0.0
        self._emit("copy_started", epoch=request.epoch, rows_total=copy.rows_total)
        self._send_patiently(sink, _marker(BatchKind.COPY_BEGIN, request, copy.rows_total))
        for batch in copy.batches():
            self._send_patiently(sink, batch)
            rows += batch.rows.num_rows
            if time.monotonic() - told_s >= _PROGRESS_INTERVAL_S:
                told_s = time.monotonic()
                self._emit("copy_progress", rows=rows, rows_total=max(rows, copy.rows_total))
        self._send_patiently(sink, _marker(BatchKind.COPY_END, request, rows))
        lsn = format_lsn(request.consistent_point)
        self._emit("copy_finished", epoch=request.epoch, rows=rows, lsn=lsn)

    def _send_patiently(self, sink: Sink, batch: ChangeBatch) -> Receipt:
        """Send a batch of the copy, again while the server is away; the server drops repeats."""
        deadline, attempt = time.monotonic() + COPY_PATIENCE_S, 0
        while True:
            if self._stop.is_set():
                raise SourceUnavailable("stopped while copying")
            try:
                return sink.send(self._name, batch)
            except SinkUnavailable as error:
                attempt += 1
                delay_s = retry_delay_s(error, attempt)
                if time.monotonic() + delay_s > deadline:
                    raise
                self._emit("copy_waiting", reason=str(error), delay_s=delay_s)
                self._stop.wait(delay_s)

    def _follow(
        self,
        sink: Sink,
        table: TableSpec,
        watch: SourceWatch,
        shapes: ShapeWatch,
        plan: StartPlan,
    ) -> None:
        with (
            ReplicationStream.open(
                self._config.dsn, self._slot, self._publication, plan.start_lsn, stop=self._stop
            ) as stream,
            contextlib.closing(
                ChangeAssembler(
                    table,
                    epoch=plan.epoch,
                    system_id=stream.identity.system_id,
                    start_lsn=plan.start_lsn,
                    batch_rows=BATCH_ROWS,
                    batch_bytes=BATCH_BYTES,
                )
            ) as assembler,
        ):
            self._emit("streaming", epoch=plan.epoch, lsn=format_lsn(plan.start_lsn))
            position = Position(self._name, plan.epoch, plan.start_lsn)
            session = StreamSession(stream, assembler, sink, watch, shapes, position, self._stop)
            try:
                session.run()
            finally:
                done = session.progress
                lsn = format_lsn(done.durable_lsn)
                self._emit("stream_ended", rows=done.rows, posts=done.posts, durable_lsn=lsn)

    def _drop_slot(self, reason: str) -> None:
        """Drop the slot if that is possible now; a start that finds it in the way tries again."""
        try:
            with contextlib.closing(connect(self._config.dsn)) as conn:
                if drop_slot(conn, self._slot):
                    self._emit("slot_dropped", slot=self._slot, reason=reason)
        except SyncError as error:
            self._emit("slot_not_dropped", slot=self._slot, reason=str(error))

    def _emit(self, event: str, **fields: object) -> None:
        self._emit_event(event, {"index": self._name, **fields})


def _marker(kind: BatchKind, request: CopyRequest, rows_total: int) -> ChangeBatch:
    """Return the batch without rows that begins or ends a copy."""
    return ChangeBatch(
        kind=kind,
        epoch=request.epoch,
        watermark_lsn=request.consistent_point,
        source_lsn=request.consistent_point,
        system_id=request.system_id,
        rows=empty_rows(request.table),
        rows_total=rows_total,
    )


def _current_name(conn: psycopg.Connection[TupleRow], table: TableSpec) -> tuple[str, str]:
    """Return the table's name now: oids survive renames. Without the oid, the known name."""
    query = (
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = %s "
        "WHERE c.oid = %s AND c.relkind IN ('r', 'p')"
    )
    with translated("find the mirrored table"):
        row = conn.execute(query, (table.vector_column, table.relation_id)).fetchone()
    return (str(row[0]), str(row[1])) if row else (table.schema, table.table)
