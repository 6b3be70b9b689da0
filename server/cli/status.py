"""``vecmirror status``: what the server mirrors and how far it has come."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from .options import JsonOption, ServerOption, open_client, settings_with
from .output import console, print_json, table


def status(server: ServerOption = None, as_json: JsonOption = False) -> None:
    """Show every index: its phase, its rows, and how far it has come."""
    with open_client(settings_with(server)) as client:
        indexes, ready = client.indexes(), client.ready()
    if as_json:
        print_json({"server": client.address, "ready": ready, "indexes": indexes})
        return
    out = console()
    out.print(f"server   {client.address}  {'ready' if ready else '[bold red]not ready[/]'}")
    if not indexes:
        out.print("no indexes yet; make one with: vecmirror attach DSN schema.table.column")
        return
    columns = ["index", "column", "phase", "rows", "trained", "applied LSN", "behind"]
    out.print(table(columns, [_row(index) for index in indexes]))
    for index in indexes:
        reason = index.get("failed") or index.get("resync_reason")
        if reason:
            out.print(f"[bold red]{escape(index['name'])}[/]: {escape(str(reason))}")


def _row(index: dict[str, Any]) -> list[object]:
    spec_table = index["spec"]["table"]
    column = f"{spec_table['schema']}.{spec_table['table']}.{spec_table['vector_column']}"
    behind = index.get("lag_bytes")
    return [
        index["name"],
        column,
        index.get("phase", "failed"),
        index.get("rows"),
        index.get("trained"),
        index.get("applied_lsn"),
        None if behind is None else f"{behind:,} bytes",
    ]
