"""``vecmirror detach``: remove an index, and what it left in Postgres."""

from __future__ import annotations

import time
from typing import Annotated, Any

import psycopg
import typer
from rich.markup import escape

from pgsync.connections import connect
from pgsync.errors import SourceError, SourceUnavailable
from pgsync.publication import drop_publication
from pgsync.slots import drop_slot, slot_state
from server.client import Client

from .options import (
    DsnOption,
    JsonOption,
    NameArgument,
    ServerOption,
    open_client,
    settings_with,
    source_dsn,
)
from .output import CommandFailed, Exit, console, print_json

#: The sidecar notices within a second or so that its index is gone, and lets the slot go.
SLOT_RELEASE_TIMEOUT_S = 20.0
RETRY_S = 0.25


def detach(
    name: NameArgument,
    dsn: DsnOption = None,
    keep_source: Annotated[
        bool, typer.Option("--keep-source", help="Leave slot and publication in Postgres.")
    ] = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove an index from the server, and its slot and publication from Postgres."""
    settings = settings_with(server)
    source = None if keep_source else source_dsn(settings, dsn)
    with open_client(settings) as client:
        if source is None:
            client.drop(name)
            removed = []
        else:
            # Connecting first: a wrong DSN must not leave a slot behind that nobody reads.
            with connect(source) as connection:
                removed = detach_index(client, connection, name)
    if as_json:
        print_json({"index": name, "removed": [f"index {name}", *removed]})
        return
    for thing in (f"index {name}", *removed):
        console().print(f"[green]✓[/] removed {escape(thing)}")


def detach_index(
    client: Client, connection: psycopg.Connection[tuple[Any, ...]], name: str
) -> list[str]:
    """Drop an index, its slot and its publication; return what was there in Postgres."""
    spec = client.describe(name)["spec"]
    slot = spec.get("slot")
    had_slot = slot is not None and slot_state(connection, slot) is not None
    client.drop(name)
    return _clean_source(connection, spec, had_slot=had_slot)


def _clean_source(
    connection: psycopg.Connection[tuple[Any, ...]], spec: dict[str, Any], *, had_slot: bool
) -> list[str]:
    """Drop an index's slot and publication; return what was there."""
    slot, publication = spec.get("slot"), spec.get("publication")
    removed = []
    try:
        if slot and had_slot:
            _drop_released_slot(connection, slot)  # or the sidecar does, which is as good
            removed.append(f"slot {slot}")
        if publication:
            drop_publication(connection, publication)
            removed.append(f"publication {publication}")
    except SourceError as error:
        raise CommandFailed(
            f"the index is removed, but not all of it in Postgres: {error}. A slot that stays "
            f"holds back the log; remove it with: SELECT pg_drop_replication_slot('{slot}'); "
            f'DROP PUBLICATION IF EXISTS "{publication}"',
            Exit.SOURCE,
        ) from error
    return removed


def _drop_released_slot(connection: psycopg.Connection[tuple[Any, ...]], slot: str) -> bool:
    """Drop a slot as soon as its reader has let it go; False when there is none."""
    deadline = time.monotonic() + SLOT_RELEASE_TIMEOUT_S
    while True:
        try:
            return drop_slot(connection, slot)
        except SourceUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)
