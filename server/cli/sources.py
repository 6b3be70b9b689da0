"""Connection strings on the command line: told from names, checked, and shown without secrets."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict

from .output import CommandFailed, Exit

#: What may be printed of a connection string. Everything else may be, or contain, a secret.
_SHOWN = ("host", "hostaddr", "port", "dbname", "user")


def looks_like_dsn(text: str) -> bool:
    """Tell a connection string (URI or key=value) from schema.table.column."""
    return "://" in text or "=" in text


def check_dsn(dsn: str) -> str:
    """Return ``dsn`` when it is a connection string; the refusal does not repeat it."""
    try:
        conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # libpq quotes the string, password included, so the cause stays out of the message.
        raise CommandFailed(
            "the DSN is not a connection string; it looks like postgresql://user@host:5432/database"
            " (special characters in a password are percent-encoded)",
            Exit.USAGE,
        ) from None
    return dsn


def shown_dsn(dsn: str) -> str:
    """Return where a connection string leads, without password and other parameters."""
    parts = conninfo_to_dict(dsn)
    return " ".join(f"{name}={parts[name]}" for name in _SHOWN if parts.get(name))
