"""Any exception as the error that a SQL client gets; codes come from the table in problems.py."""

from __future__ import annotations

import asyncio

import structlog

from pgsync.lsn import format_lsn
from server.errors import StaleIndex, UnknownIndex
from server.filters import FilterError
from server.problems import UNEXPECTED, kind_of

from .errors import SqlError
from .lifting import Lifted

log = structlog.get_logger("vecmirror.sql")


def as_sql_error(error: BaseException, statement: Lifted | None = None) -> SqlError:
    """Return what to tell the client; ``statement`` is what the error's position is in."""
    if isinstance(error, SqlError):
        return _placed(error, statement)
    if isinstance(error, FilterError):
        found = SqlError(
            error.sqlstate, error.message, hint=error.hint, position=error.position + 1
        )
        return _placed(found, statement)
    return _listed(error)


def _placed(error: SqlError, statement: Lifted | None) -> SqlError:
    """Point to the place in the text that the client sent."""
    if error.position is None or statement is None:
        return error
    position = statement.position(error.position - 1) + 1
    return SqlError(
        error.sqlstate,
        error.message,
        hint=error.hint,
        detail=error.detail,
        position=position,
        fatal=error.fatal,
    )


def _listed(error: BaseException) -> SqlError:
    kind = kind_of(error)
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return statement_timeout()
    if kind is UNEXPECTED:
        log.error("statement failed", exc_info=error)
        return SqlError("XX000", "this is a fault of the server; its log tells the cause")
    if isinstance(error, UnknownIndex):
        return SqlError(kind.sqlstate, f'relation "{error.name}" does not exist')
    if isinstance(error, StaleIndex):
        return _stale(error, kind.sqlstate)
    return SqlError(kind.sqlstate, str(error) or kind.title, hint=kind.advice or None)


def _stale(error: StaleIndex, sqlstate: str) -> SqlError:
    behind = error.wanted - error.applied_lsn
    return SqlError(
        sqlstate,
        f"the index is {behind} bytes of the source's log behind what was asked for",
        detail=f"it has applied {format_lsn(error.applied_lsn)}, "
        f"asked for was {format_lsn(error.wanted)}",
        hint="allow more time by statement_timeout, or ask without min_lsn for what is there",
    )


def statement_timeout() -> SqlError:
    """Return the error for a statement that ran too long."""
    return SqlError("57014", "canceling statement due to statement timeout")
