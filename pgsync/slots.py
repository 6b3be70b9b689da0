"""Logical replication slots: create one with its exported snapshot, read its state, drop it.

Invariants:

- An exported snapshot lives until the next command on the connection that made the slot.
- A slot that this process made and does not use any more is dropped: it would hold the primary's
  log until the disk is full.
"""

from __future__ import annotations

import select
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from .connections import connect_replication, raise_for_result, translated
from .errors import SourceError, SourceUnavailable
from .lsn import parse_lsn

#: Slots that a standby keeps in step exist from here on.
FAILOVER_SINCE = 17_00_00

#: How long a stop may go unnoticed while a slot is being created.
_STOP_CHECK_S = 0.2

# to_jsonb leaves out what a version does not have: invalidation_reason and failover are new in 17.
_STATE_SQL = """
SELECT to_jsonb(s) || jsonb_build_object('lag_bytes', pg_wal_lsn_diff(
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
    s.confirmed_flush_lsn)::int8)
FROM pg_catalog.pg_replication_slots s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """One row of pg_replication_slots.

    ``lag_bytes`` is log written since the confirmed position, ``safe_wal_size`` how many bytes may
    still be written before the slot is lost (None: no limit is set).
    """

    name: str
    plugin: str
    database: str
    active_pid: int | None
    wal_status: str | None
    invalidation_reason: str | None
    confirmed_flush_lsn: int | None
    lag_bytes: int | None
    safe_wal_size: int | None
    failover: bool

    @property
    def lost(self) -> bool:
        """Whether the slot can no longer be streamed from, now or ever."""
        return self.wal_status == "lost" or self.invalidation_reason is not None

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> SlotState:
        """Read a row of pg_replication_slots of any supported version."""
        confirmed = row.get("confirmed_flush_lsn")
        return cls(
            name=row["slot_name"],
            plugin=row.get("plugin") or "",
            database=row.get("database") or "",
            active_pid=row.get("active_pid"),
            wal_status=row.get("wal_status"),
            invalidation_reason=row.get("invalidation_reason"),
            confirmed_flush_lsn=parse_lsn(confirmed) if confirmed else None,
            lag_bytes=row.get("lag_bytes"),
            safe_wal_size=row.get("safe_wal_size"),
            failover=bool(row.get("failover", False)),
        )


class CreatedSlot:
    """A new slot and its exported snapshot; close it once every copy connection has imported it.

    ``consistent_point`` is the LSN the snapshot stands for: the copy holds what committed before,
    the stream what commits after.
    """

    def __init__(
        self, conn: psycopg.Connection[TupleRow], name: str, consistent_point: int, snapshot: str
    ) -> None:
        self._conn = conn
        self.name = name
        self.consistent_point = consistent_point
        self.snapshot = snapshot

    def close(self) -> None:
        """Let the snapshot go. The slot stays."""
        self._conn.close()

    def __enter__(self) -> CreatedSlot:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def create_slot(
    dsn: str,
    name: str,
    *,
    failover: bool = False,
    temporary: bool = False,
    stop: threading.Event | None = None,
) -> CreatedSlot:
    """Create a pgoutput slot and export its snapshot; raise SourceError.

    Waits, as Postgres must, until every transaction that is running has ended; ``stop`` ends the
    wait with SourceUnavailable. ``failover`` asks for a slot that standbys keep in step; servers
    before 17 have none.
    """
    conn = connect_replication(dsn)
    try:
        version = conn.info.server_version
        failover = failover and version >= FAILOVER_SINCE
        with translated(f"create replication slot {name}"):
            command = _create_command(version, name, failover, temporary)
            row = _interruptible(conn, command, stop or threading.Event())
        return CreatedSlot(conn, name, parse_lsn(row[1]), row[2])
    except BaseException:
        conn.close()
        raise


def slot_state(conn: psycopg.Connection[TupleRow], name: str) -> SlotState | None:
    """Return the state of one slot, None when it does not exist."""
    with translated("read the replication slot"):
        query = sql.SQL(_STATE_SQL + " WHERE s.slot_name = %s")
        row = conn.execute(query, (name,)).fetchone()
    return None if row is None else SlotState.from_json(row[0])


def slot_states(conn: psycopg.Connection[TupleRow]) -> list[SlotState]:
    """Return the state of every logical slot of the cluster."""
    with translated("read the replication slots"):
        query = sql.SQL(_STATE_SQL + " WHERE s.slot_type = 'logical' ORDER BY s.slot_name")
        return [SlotState.from_json(row[0]) for row in conn.execute(query)]


def drop_slot(conn: psycopg.Connection[TupleRow], name: str) -> bool:
    """Drop a slot; False when there is none. Raises SourceUnavailable while it is in use."""
    state = slot_state(conn, name)
    if state is None:
        return False
    if state.plugin != "pgoutput" or state.database != conn.info.dbname:
        raise SourceError(
            f"slot {name} belongs to plugin {state.plugin} of database {state.database}, "
            "not to this index; choose another slot name"
        )
    with translated(f"drop replication slot {name}"):
        try:
            conn.execute("SELECT pg_catalog.pg_drop_replication_slot(%s)", (name,))
        except psycopg.errors.UndefinedObject:
            return False  # somebody else has just dropped it: detach and the sidecar both may
    return True


def _interruptible(
    conn: psycopg.Connection[TupleRow], command: sql.Composed, stop: threading.Event
) -> list[str]:
    """Run a command that may take hours; return its one row."""
    pgconn = conn.pgconn
    pgconn.send_query(command.as_bytes(conn))
    while pgconn.flush() or pgconn.is_busy():
        if stop.is_set():
            conn.cancel_safe(timeout=2.0)
            raise SourceUnavailable("stopped while waiting for running transactions to end")
        select.select([pgconn.socket], [], [], _STOP_CHECK_S)
        pgconn.consume_input()
    values: list[str] = []
    for result in iter(pgconn.get_result, None):
        raise_for_result(result)
        values = [(result.get_value(0, at) or b"").decode() for at in range(result.nfields)]
    return values


def _create_command(version: int, name: str, failover: bool, temporary: bool) -> sql.Composed:
    # Options in brackets came with 15; 14 knows the older form only.
    options = "EXPORT_SNAPSHOT" if version < 15_00_00 else "(SNAPSHOT 'export')"
    if failover:
        options = "(SNAPSHOT 'export', FAILOVER true)"
    return sql.SQL("CREATE_REPLICATION_SLOT {} {}LOGICAL pgoutput {}").format(
        sql.Identifier(name), sql.SQL("TEMPORARY " if temporary else ""), sql.SQL(options)
    )
