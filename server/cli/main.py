"""The application object, and the one place where errors become sentences and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pgsync.errors import SinkError, SyncError
from server.client import ServerRefused, ServerUnreachable
from server.demo.binaries import PostgresUnavailable
from server.settings import CONFIG_VARIABLE, SettingsError

from . import attach, config, demo, detach, doctor, search, serve, status, sync, verify
from .output import EXIT_CODES_HELP, CommandFailed, Exit, print_error

app = typer.Typer(
    name="vecmirror",
    help="Keep a live mirror of Postgres vector columns and search it over HTTP.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _module in (demo, serve, sync, attach, detach, doctor, status, verify, search):
    app.command()(getattr(_module, _module.__name__.rpartition(".")[2]))
app.add_typer(config.app, name="config")

#: Which exit code an error means; the first class that fits counts.
_EXIT_OF_ERROR: tuple[tuple[type[Exception], Exit], ...] = (
    (SettingsError, Exit.USAGE),
    (ServerUnreachable, Exit.SERVER),
    (ServerRefused, Exit.SERVER),
    (SinkError, Exit.SERVER),
    (SyncError, Exit.SOURCE),
    (PostgresUnavailable, Exit.SOURCE),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vecmirror {version('vecmirror')}")
        raise typer.Exit


@app.callback()
def vecmirror(
    config_file: Annotated[
        Path | None, typer.Option("--config", help="Configuration file, in TOML.")
    ] = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Keep a live mirror of Postgres vector columns and search it over HTTP."""
    if config_file is not None:
        os.environ[CONFIG_VARIABLE] = str(config_file)  # the processes we start read it too


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and end the process with its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    as_json = "--json" in arguments
    try:
        app(arguments, prog_name="vecmirror")
    except CommandFailed as failed:
        _fail(failed, failed.code, as_json)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except Exception as error:
        for kind, code in _EXIT_OF_ERROR:
            if isinstance(error, kind):
                _fail(error, code, as_json)
        raise
    sys.exit(Exit.OK)


def _fail(error: Exception, code: Exit, as_json: bool) -> NoReturn:
    print_error(error, code, as_json=as_json)
    sys.exit(code)
