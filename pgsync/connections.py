"""Connections to the source, and what a Postgres error means for the sidecar.

Two kinds exist: ordinary ones, and replication ones that speak the walsender's command language
besides plain SQL without parameters
(https://www.postgresql.org/docs/current/protocol-replication.html).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors, pq, sql
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow

from .errors import ResyncNeeded, SourceError, SourceUnavailable

#: A source that does not answer a connection attempt for this long is down, not slow.
CONNECT_TIMEOUT_S = 10

#: Cut cables are noticed after about 30 + 3 * 10 seconds instead of the kernel's two hours.
_KEEPALIVES: dict[str, Any] = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}

#: The oldest server with binary and streamed pgoutput and with TID range scans.
MIN_SERVER_VERSION = 14_00_00

#: SQLSTATE classes that time or an administrator mends: connection, resources, intervention.
_TRANSIENT_CLASSES = frozenset({"08", "53", "57", "58", "40"})
_TRANSIENT_STATES = frozenset({"55006", "55P03", "25P03"})

#: Time limits that applications set for their own sessions must not end a copy or a stream.
_NO_SESSION_LIMITS = (
    "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; "
    "SET idle_session_timeout = 0"
)


@dataclass(frozen=True, slots=True)
class SystemIdentity:
    """Answer of IDENTIFY_SYSTEM: which cluster this is, and how far its log is flushed."""

    system_id: str
    timeline: int
    flush_lsn: str
    database: str


def connect(dsn: str) -> psycopg.Connection[TupleRow]:
    """Open an ordinary connection in autocommit mode; raise SourceUnavailable."""
    return _open(dsn)


def connect_replication(dsn: str) -> psycopg.Connection[TupleRow]:
    """Open a walsender connection to the database of ``dsn``; raise SourceError.

    Parameters cannot be used on it: the walsender refuses the extended query protocol.
    """
    return _open(dsn, replication="database")


def current_database(conn: psycopg.Connection[TupleRow]) -> str:
    """Return the database's own name, whatever a pooler calls it; raise SourceUnavailable."""
    with translated("ask for the database's name"):
        row = conn.execute("SELECT pg_catalog.current_database()").fetchone()
    if row is None:
        raise SourceUnavailable("the source did not tell the name of its database")
    return str(row[0])


def identify_system(conn: psycopg.Connection[TupleRow]) -> SystemIdentity:
    """Return the identity of the cluster behind a replication connection."""
    with translated("identify the source"):
        row = conn.execute("IDENTIFY_SYSTEM").fetchone()
    if row is None:
        raise SourceUnavailable("the source did not answer IDENTIFY_SYSTEM")
    return SystemIdentity(str(row[0]), int(row[1]), str(row[2]), str(row[3]))


def source_identity(dsn: str) -> SystemIdentity:
    """Ask the source who it is, over a connection of its own."""
    with connect_replication(dsn) as conn:
        return identify_system(conn)


@contextmanager
def translated(doing: str, resync_states: frozenset[str] = frozenset()) -> Iterator[None]:
    """Turn psycopg's errors into ours; ``doing`` completes "could not ..." in the message.

    ``resync_states`` are the SQLSTATEs that mean ResyncNeeded here. Only the primary message is
    kept: DETAIL and CONTEXT of Postgres may quote row values.
    """
    try:
        yield
    except psycopg.Error as error:
        raise source_error(error, doing, resync_states) from error


def source_error(
    error: psycopg.Error, doing: str, resync_states: frozenset[str] = frozenset()
) -> SourceError:
    """Return the error of ours that says what to do about ``error``."""
    state = error.sqlstate
    reason = error.diag.message_primary or _first_line(error)
    message = f"could not {doing}: {reason}" + (f" (SQLSTATE {state})" if state else "")
    if state is None:
        lost = isinstance(error, psycopg.OperationalError)
        return SourceUnavailable(message) if lost else SourceError(message)
    if state in resync_states:
        return ResyncNeeded(message)
    if state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT_STATES:
        return SourceUnavailable(message)
    return SourceError(message)


def raise_for_result(result: PGresult) -> None:
    """Raise the psycopg error that a libpq result stands for, if it does."""
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    if state:
        raise errors.lookup(state.decode())(result.get_error_message(), info=result)


def _open(dsn: str, **extra: Any) -> psycopg.Connection[TupleRow]:
    with translated("connect to the source"):
        conn = psycopg.connect(
            dsn,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="vecmirror",
            **_KEEPALIVES,
            **extra,
        )
        try:
            _prepare(conn)
        except BaseException:
            conn.close()
            raise
    return conn


def _prepare(conn: psycopg.Connection[TupleRow]) -> None:
    if conn.info.server_version < MIN_SERVER_VERSION:
        version = conn.info.server_version // 10_000
        raise SourceError(f"the source runs Postgres {version}; Vecmirror needs 14 or newer")
    conn.execute(sql.SQL(_NO_SESSION_LIMITS))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
