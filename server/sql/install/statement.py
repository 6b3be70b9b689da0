"""One SQL statement, and how it may be shown to people."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

#: What a printed script has where a key would be: a psql variable, quoted by psql as a literal.
KEY_VARIABLE = sql.SQL(":'vecmirror_key'")

Part = sql.Composable


@dataclass(frozen=True, slots=True)
class Statement:
    """``run`` goes to Postgres; ``shown`` is the same without secrets, for scripts and logs."""

    run: sql.Composable
    shown: str

    @classmethod
    def of(cls, statement: sql.Composable) -> Statement:
        """Return a statement without secrets."""
        return cls(statement, statement.as_string(None))


def joined(parts: list[Part], separator: str = ", ") -> sql.Composed:
    """Join parts."""
    return sql.SQL(separator).join(parts)


def qualified(schema: str, name: str) -> sql.Identifier:
    """Return ``"schema"."name"``."""
    return sql.Identifier(schema, name)


def options(values: dict[str, str], verb: str = "") -> sql.Composed:
    """Return ``OPTIONS (name 'value', ...)``; ``verb`` is SET or ADD where an object is altered."""
    prefix = sql.SQL(f"{verb} " if verb else "")
    parts: list[Part] = [
        prefix + sql.Identifier(name) + sql.SQL(" ") + sql.Literal(value)
        for name, value in values.items()
    ]
    return sql.SQL("OPTIONS ({})").format(joined(parts))
