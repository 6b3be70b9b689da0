"""``vecmirror sql-install``: what a database needs to search an index in plain SQL."""

from __future__ import annotations

import os
from typing import Annotated, get_args
from urllib.parse import urlsplit

import psycopg
import typer
from psycopg import sql
from rich.markup import escape

from pgsync.connections import connect
from server.settings import Settings
from server.spec import IndexSpec
from server.sql.install import (
    BaseTable,
    ClientFacts,
    Options,
    PortAddress,
    Statement,
    install_statements,
)
from server.sql.install.database import look, run
from server.sql.install.facts import SslMode
from server.sql.install.names import DEFAULT_NAME, IndexNames

from .options import (
    JsonOption,
    NameArgument,
    ServerOption,
    open_client,
    settings_with,
    source_dsn,
)
from .output import CommandFailed, Exit, console, print_json
from .sources import shown_dsn

SchemaOption = Annotated[str, typer.Option("--schema", help="Schema for everything that is made.")]
ForeignServerOption = Annotated[
    str, typer.Option("--foreign-server", metavar="NAME", help="Name of the foreign server.")
]
ClientDsnOption = Annotated[
    str | None,
    typer.Option(
        "--dsn",
        metavar="DSN",
        help="The database that will search; otherwise the source, VECMIRROR_SOURCE__DSN.",
    ),
]
RunOption = Annotated[
    bool, typer.Option("--run", help="Run the statements instead of printing them.")
]

#: The script is one transaction; psql is told to stop at the first error.
_HEADER = (
    "-- vecmirror sql-install {name}: psql -X -v ON_ERROR_STOP=1{key} -f THIS_FILE DATABASE\nBEGIN;"
)


def sql_install(
    name: NameArgument,
    dsn: ClientDsnOption = None,
    run_them: RunOption = False,
    host: Annotated[
        str | None, typer.Option(help="The index server, as the database reaches it.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Its SQL port; else setting sql.port.")
    ] = None,
    sslmode: Annotated[
        str | None, typer.Option(help="libpq's sslmode; else require where the port has TLS.")
    ] = None,
    root_certificate: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="libpq's sslrootcert, a file on the database's machine."),
    ] = None,
    schema: SchemaOption = DEFAULT_NAME,
    foreign_server: ForeignServerOption = DEFAULT_NAME,
    mapped: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="ROLE",
            help="Who may connect to the port: a role, or PUBLIC; else you.",
        ),
    ] = None,
    readers: Annotated[
        list[str] | None,
        typer.Option("--grant", metavar="ROLE", help="Who may read the view of the rows."),
    ] = None,
    password_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Environment variable that holds the API key."),
    ] = None,
    show_key: Annotated[
        bool, typer.Option("--show-key", help="Print the key too, not a psql variable.")
    ] = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print (or run) the SQL that lets a database search an index: tables, a view, functions."""
    settings = settings_with(server)
    wanted = Options(
        schema=schema,
        server=foreign_server,
        mapped_roles=tuple(mapped or ["CURRENT_USER"]),
        readers=tuple(readers or ()),
        key=_key(settings, password_env, prompt=run_them and not as_json, needed=run_them),
    )
    address = _address(settings, host, port, sslmode, root_certificate)
    with open_client(settings) as client:
        spec = IndexSpec.from_json(client.describe(name)["spec"])
    if dsn is None and settings.source.dsn is None and not run_them:
        statements = _statements(spec, address, wanted, _unseen(spec))
        _show(statements, name, wanted, show_key=show_key, as_json=as_json)
        return
    dsn = source_dsn(settings, dsn)
    with connect(dsn) as connection:
        facts = look(connection, spec, wanted)
        statements = _statements(spec, address, wanted, facts)
        if not run_them:
            _show(statements, name, wanted, show_key=show_key, as_json=as_json)
            return
        run_statements(connection, statements)
        _check(connection, spec, wanted, address)
    _report(statements, spec, wanted, facts, dsn, as_json=as_json)


def run_statements(
    connection: psycopg.Connection[tuple[object, ...]], statements: list[Statement]
) -> None:
    """Run all or nothing; raise CommandFailed in Postgres' words."""
    try:
        run(connection, statements)
    except psycopg.Error as error:
        raise CommandFailed(
            f"nothing was changed, Postgres refuses: {said(error)}", Exit.SOURCE
        ) from None  # the cause may quote a statement, and so the key


def said(error: psycopg.Error) -> str:
    """Return message, detail and hint of a Postgres error."""
    parts = (error.diag.message_primary, error.diag.message_detail, error.diag.message_hint)
    return "; ".join(part for part in parts if part) or type(error).__name__


def _key(settings: Settings, variable: str | None, *, prompt: bool, needed: bool) -> str | None:
    """Return the API key for the user mapping; None where the index server has no keys."""
    if variable is not None:
        key = os.environ.get(variable)
        if not key:
            raise CommandFailed(f"the environment variable {variable} is not set", Exit.USAGE)
        return key
    if settings.sync.api_key is None and not settings.auth.admin_keys:
        return None
    if not needed:
        return "an API key"  # shown as a variable
    if prompt and console().is_terminal:
        return str(typer.prompt("API key for the database (a read key is enough)", hide_input=True))
    raise CommandFailed(
        "the database needs an API key to search, a read key is enough: put it into an environment "
        "variable and name that with --password-env",
        Exit.USAGE,
    )


def _address(
    settings: Settings,
    host: str | None,
    port: int | None,
    sslmode: str | None,
    root_certificate: str | None,
) -> PortAddress:
    """Return where the port is; by default on the server's host, by the settings we share."""
    if sslmode is not None and sslmode not in get_args(SslMode):
        raise CommandFailed(f"--sslmode is one of {', '.join(get_args(SslMode))}", Exit.USAGE)
    tls = settings.sql.tls_cert is not None
    return PortAddress(
        host=host or urlsplit(settings.sync.server_url).hostname or "127.0.0.1",
        port=port or settings.sql.port,
        sslmode=sslmode or ("require" if tls else "disable"),  # type: ignore[arg-type]
        root_certificate=root_certificate,
    )


def _statements(
    spec: IndexSpec, address: PortAddress, wanted: Options, facts: ClientFacts
) -> list[Statement]:
    try:
        return install_statements(spec, address, wanted, facts)
    except ValueError as error:
        raise CommandFailed(str(error)) from error


def _unseen(spec: IndexSpec) -> ClientFacts:
    """Return what to expect of a database that nobody has looked at: the source itself."""
    return ClientFacts(base=BaseTable(schema=spec.table.schema, table=spec.table.table))


def _show(
    statements: list[Statement], name: str, wanted: Options, *, show_key: bool, as_json: bool
) -> None:
    """Print the script, or its statements in JSON."""
    texts = [each.run.as_string(None) if show_key else each.shown for each in statements]
    if as_json:
        print_json({"index": name, "ran": False, "statements": texts})
        return
    if not texts:
        print(f"-- {name} is installed; there is nothing to do")
        return
    keyed = wanted.key is not None and not show_key
    header = _HEADER.format(name=name, key=" -v vecmirror_key=KEY" if keyed else "")
    print("\n".join([header, *(f"{text};" for text in texts), "COMMIT;"]))


def _check(
    connection: psycopg.Connection[tuple[object, ...]],
    spec: IndexSpec,
    wanted: Options,
    address: PortAddress,
) -> None:
    """Read one key through the foreign table; raise CommandFailed where the port is not reached."""
    query = sql.SQL("SELECT {} FROM {} LIMIT 1").format(
        sql.Identifier(spec.table.key[0].name),
        sql.Identifier(wanted.schema, IndexNames.of(spec.name).light),
    )
    try:
        connection.execute(query)
    except psycopg.Error as error:
        raise CommandFailed(
            f"everything is installed, but the database cannot search at {address.host}:"
            f"{address.port} yet: {said(error)}. Mend it and run the same command again"
        ) from error


def _report(
    statements: list[Statement],
    spec: IndexSpec,
    wanted: Options,
    facts: ClientFacts,
    dsn: str,
    *,
    as_json: bool,
) -> None:
    if as_json:
        texts = [each.shown for each in statements]
        print_json({"index": spec.name, "ran": True, "statements": texts})
        return
    out = console()
    if not statements:
        out.print(f"{spec.name} is installed already; nothing was changed", markup=False)
        return
    names = IndexNames.of(spec.name)
    lines = [
        ("database", shown_dsn(dsn)),
        ("foreign table", f"{wanted.schema}.{names.table}"),
        ("light form", f"{wanted.schema}.{names.light}"),
        ("functions", f"{wanted.schema}.search, {wanted.schema}.{names.search}"),
    ]
    if facts.base is not None:
        policies = "with its policies" if facts.base.row_security else "no row-level security"
        lines.append(("view", f"{wanted.schema}.{names.view} over {facts.base.table}, {policies}"))
    for label, what in lines:
        out.print(f"[green]✓[/] {label:<13} {escape(what)}", soft_wrap=True)
