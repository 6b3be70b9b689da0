"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from typing import Annotated

import typer

from server.client import Client
from server.settings import Settings, load_settings

from .output import CommandFailed, Exit
from .sources import check_dsn, looks_like_dsn

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
JsonLogsOption = Annotated[bool, typer.Option("--json", help="Write log lines as JSON objects.")]
ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server", metavar="URL", help="The index server; otherwise setting sync.server_url."
    ),
]
NameArgument = Annotated[str, typer.Argument(help="Name of the index.")]
DsnOption = Annotated[
    str | None,
    typer.Option("--dsn", metavar="DSN", help="The source; better given as VECMIRROR_SOURCE__DSN."),
]
DSN_HELP = "Connection string of the source; can be left out when VECMIRROR_SOURCE__DSN has it."


def settings_with(server: str | None = None) -> Settings:
    """Return the settings, with the server's address from the command line where it is given."""
    return load_settings({"sync.server_url": server}).settings


def open_client(settings: Settings) -> Client:
    """Return a client of the index server that the settings name."""
    key = settings.sync.api_key
    return Client(
        settings.sync.server_url,
        uds=settings.sync.server_uds,
        api_key=key.get_secret_value() if key else None,
    )


def source_dsn(settings: Settings, given: str | None = None) -> str:
    """Return the source's connection string from the command line or the settings."""
    if given is not None:
        return check_dsn(given)
    if settings.source.dsn is None:
        raise CommandFailed(
            "which Postgres? Give its DSN (postgresql://user@host/database), "
            "or set VECMIRROR_SOURCE__DSN",
            Exit.USAGE,
        )
    return check_dsn(settings.source.dsn.get_secret_value())


def dsn_and_target(
    settings: Settings, first: str | None, second: str | None
) -> tuple[str, str | None]:
    """Sort out ``[DSN] [schema.table.column]``, either of which may be missing."""
    if second is None and first is not None and not looks_like_dsn(first):
        return source_dsn(settings), first
    if second is not None and looks_like_dsn(second):
        first, second = second, first
    return source_dsn(settings, first), second
