"""Asks the source database how far its log has come, for searches that must miss nothing.

One connection is kept and shared; a lock makes callers take turns, for one answer takes well under
a millisecond. A connection that broke since the last question is replaced once before giving up.
"""

from __future__ import annotations

import threading

import psycopg

from pgsync.lsn import parse_lsn

#: A standby writes no log of its own: what it has replayed is what its readers can have seen.
#: https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADMIN-BACKUP
_QUESTION = """
    SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                ELSE pg_current_wal_flush_lsn() END::text
"""


class SourceNotConfigured(Exception):
    """The settings name no source database, so it cannot be asked."""


class SourceUnreachable(Exception):
    """The source database did not answer."""


class SourceClock:
    """The source's log position, asked anew each time. Any thread may call."""

    def __init__(self, dsn: str | None, connect_timeout_s: int = 5) -> None:
        self._dsn, self._connect_timeout_s = dsn, connect_timeout_s
        self._lock = threading.Lock()
        self._connection: psycopg.Connection | None = None

    def flush_lsn(self) -> int:
        """Return the position up to which the source has flushed its log, blocking.

        Every transaction whose COMMIT has returned (with synchronous_commit on) lies before it.
        Raise SourceNotConfigured or SourceUnreachable.
        """
        if self._dsn is None:
            raise SourceNotConfigured(
                "consistency = strong needs source.dsn in the server's settings; "
                "or send min_lsn, read with pg_current_wal_lsn() after your commit"
            )
        with self._lock:
            try:
                return self._ask_twice(self._dsn)
            except psycopg.Error as error:
                self._drop()
                raise SourceUnreachable(
                    "the source database did not tell its position; try again, "
                    "or search with consistency = eventual"
                ) from error

    def close(self) -> None:
        """Close the kept connection."""
        with self._lock:
            self._drop()

    def _ask_twice(self, dsn: str) -> int:
        if self._connection is not None:
            try:
                return _ask(self._connection)
            except psycopg.OperationalError:
                self._drop()
        self._connection = psycopg.connect(
            dsn,
            autocommit=True,
            connect_timeout=self._connect_timeout_s,
            application_name="vecmirror-server",
        )
        return _ask(self._connection)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _ask(connection: psycopg.Connection) -> int:
    row = connection.execute(_QUESTION).fetchone()
    assert row is not None, "a SELECT without FROM has one row"
    return parse_lsn(row[0])
