"""``vecmirror serve``: the index server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.main import serve as run_server
from server.settings import load_settings

from .options import JsonLogsOption


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 takes any free one.")] = None,
    uds: Annotated[Path | None, typer.Option(help="Unix socket to listen on as well.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory of journals and snapshots.")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="json or console.")] = None,
    as_json: JsonLogsOption = False,
) -> None:
    """Run the index server until SIGTERM or Ctrl-C."""
    flags = {
        "server.host": host,
        "server.port": port,
        "server.uds": uds,
        "server.data_dir": data_dir,
        "server.log_format": "json" if as_json else log_format,
    }
    raise typer.Exit(run_server(load_settings(flags).settings))
