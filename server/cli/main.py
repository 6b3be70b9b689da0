"""The application object, and the one place where errors become sentences and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from pgsync.errors import SinkError, SyncError
from server.client import ServerRefused, ServerUnreachable
from server.demo.binaries import PostgresUnavailable
from server.settings import CONFIG_VARIABLE, SettingsError

from .output import EXIT_CODES_HELP, CommandFailed, Exit, print_error

#: In the order of help. ``config`` has commands of its own.
COMMANDS = (
    *("demo", "serve", "sync", "attach", "detach", "doctor", "status", "verify", "search"),
    *("sql-install", "sql-uninstall", "plan", "warmup", "config"),
)


class _Commands(TyperGroup):
    """The commands, each imported when it is asked for: the server's imports take a second."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names."""
        return [*COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command; None for a name that is none."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = import_module(f".{name}", __package__)
        if cmd_name == "config":
            return typer.main.get_command(module.app)
        single = typer.Typer(add_completion=False)
        single.command(cmd_name)(getattr(module, name))
        return typer.main.get_command(single)


app = typer.Typer(
    cls=_Commands,
    name="vecmirror",
    help="Keep a live mirror of Postgres vector columns and search it over HTTP.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
