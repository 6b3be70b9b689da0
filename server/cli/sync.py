"""``vecmirror sync``: the sidecar that brings the source's changes to the index server."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from pgsync.sidecar import SidecarConfig, run
from server.logs import configure_logs

from .options import DsnOption, JsonLogsOption, ServerOption, settings_with, source_dsn


def sync(
    dsn: DsnOption = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this index; repeatable.")
    ] = None,
    failover_slots: Annotated[
        bool,
        typer.Option("--failover-slots", help="Slots that standbys keep in step (Postgres 17+)."),
    ] = False,
    server: ServerOption = None,
    as_json: JsonLogsOption = False,
) -> None:
    """Copy the tables of all attached indexes and follow their changes, until SIGTERM or Ctrl-C."""
    settings = settings_with(server)
    key, uds = settings.sync.api_key, settings.sync.server_uds
    config = SidecarConfig(
        dsn=source_dsn(settings, dsn),
        server=settings.sync.server_url,
        server_uds=str(uds) if uds else None,
        api_key=key.get_secret_value() if key else None,
        copy_workers=settings.sync.copy_workers,
        failover_slots=failover_slots,
        only=frozenset(only) if only else None,
    )
    form = "json" if as_json else settings.server.log_format
    configure_logs(settings.server.log_level, form)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run(config, stop)
