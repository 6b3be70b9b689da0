"""``vecmirror config show``: every setting, its value and where it came from."""

from __future__ import annotations

import typer

from server.settings import load_settings

from .options import JsonOption
from .output import console, print_json, table

app = typer.Typer(name="config", no_args_is_help=True, help="Look at the configuration.")


@app.callback()
def config() -> None:
    """Look at the configuration."""


@app.command()
def show(as_json: JsonOption = False) -> None:
    """Show every setting, its value, and where the value came from. Secrets are masked."""
    rows = load_settings().rows()
    if as_json:
        shown = [{"key": r.key, "value": r.value, "origin": r.origin} for r in rows]
        print_json({"settings": shown})
        return
    cells = [[r.key, "-" if r.value is None else str(r.value), r.origin] for r in rows]
    console().print(table(["setting", "value", "from"], cells))
