"""``vecmirror sql-uninstall``: take away what ``sql-install`` made."""

from __future__ import annotations

from typing import Annotated

import typer

from pgsync.connections import connect
from server.sql.install import Options, removal_statements
from server.sql.install.database import look
from server.sql.install.names import DEFAULT_NAME

from .options import JsonOption, settings_with, source_dsn
from .output import console, print_json
from .sql_install import (
    ClientDsnOption,
    ForeignServerOption,
    RunOption,
    SchemaOption,
    run_statements,
)


def sql_uninstall(
    name: Annotated[str | None, typer.Argument(help="Name of the index; else all of them.")] = None,
    dsn: ClientDsnOption = None,
    run_them: RunOption = False,
    schema: SchemaOption = DEFAULT_NAME,
    foreign_server: ForeignServerOption = DEFAULT_NAME,
    as_json: JsonOption = False,
) -> None:
    """Print (or run) the SQL that removes what sql-install made, and nothing else."""
    wanted = Options(schema=schema, server=foreign_server)
    with connect(source_dsn(settings_with(), dsn)) as connection:
        statements = removal_statements(name, wanted, look(connection, None, wanted))
        if run_them:
            run_statements(connection, statements)
    texts = [each.shown for each in statements]
    if as_json:
        print_json({"index": name, "ran": run_them, "statements": texts})
    elif not texts:
        print("-- there is nothing of sql-install's here")
    elif run_them:
        for text in texts:
            console().print(f"[green]✓[/] {text}", soft_wrap=True, highlight=False)
    else:
        print("\n".join(["BEGIN;", *(f"{text};" for text in texts), "COMMIT;"]))
