"""Errors of the SQL port, as Postgres clients know them.

Source: Postgres documentation, appendix A (error codes) and "Error and Notice Message Fields".
"""

from __future__ import annotations


class SqlError(Exception):
    """What a client gets as ErrorResponse. No message holds a value of a row or a parameter.

    ``sqlstate``: five characters. ``position``: character of the statement, from 1. ``fatal``: the
    connection ends with it.
    """

    def __init__(
        self,
        sqlstate: str,
        message: str,
        *,
        hint: str | None = None,
        detail: str | None = None,
        position: int | None = None,
        fatal: bool = False,
    ) -> None:
        super().__init__(message)
        self.sqlstate, self.message = sqlstate, message
        self.hint, self.detail, self.position, self.fatal = hint, detail, position, fatal
