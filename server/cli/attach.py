"""``vecmirror attach``: make an index of one vector column.

The publication is made here, because that takes the rights of the table's owner. The slot is made
by ``vecmirror sync`` when it starts to copy: a slot without a reader would only hold back the
primary's log, and its snapshot is what the copy reads.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import psycopg
import typer
from rich.markup import escape

from pgsync.connections import connect, current_database
from pgsync.doctor import examine
from pgsync.inspection import Target, inspect_table, parse_target
from pgsync.publication import (
    check_publication,
    create_publication,
    drop_publication,
    publication_state,
)
from pgsync.table import TableSpec
from server.client import Client, ServerRefused

from .findings import blocking, print_findings
from .options import (
    DSN_HELP,
    JsonOption,
    ServerOption,
    dsn_and_target,
    open_client,
    settings_with,
)
from .output import CommandFailed, Exit, console, print_json
from .sources import shown_dsn

#: Slot and publication names start with this, so that a DBA sees whose they are.
OBJECT_PREFIX = "vecmirror_"

#: NAMEDATALEN - 1: what Postgres keeps of a name.
NAME_LIMIT_BYTES = 63

NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class Attached:
    """What ``attach`` did: the index as the server describes it, and the SQL that was run."""

    index: dict[str, Any]
    created: bool
    statements: list[str]


def attach(
    first: Annotated[str | None, typer.Argument(metavar="[DSN]", help=DSN_HELP)] = None,
    second: Annotated[
        str | None, typer.Argument(metavar="SCHEMA.TABLE.COLUMN", help="The vector column.")
    ] = None,
    filter_columns: Annotated[
        str, typer.Option(metavar="A,B", help="Columns to mirror for filters.")
    ] = "",
    metric: Annotated[
        Literal["l2", "cosine", "ip"] | None,
        typer.Option(help="l2 is <->, cosine is <=>, ip is <#>; else setting index.metric."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the index; else table_column.")] = None,
    dim: Annotated[
        int | None, typer.Option(min=1, help="Dimension, where neither type nor rows tell it.")
    ] = None,
    raw_dtype: Annotated[
        Literal["float32", "float16"] | None,
        typer.Option(help="Element type of the vectors kept for re-ranking."),
    ] = None,
    code_bits: Annotated[
        int | None, typer.Option(help="Bits of a product quantizer code: 4 or 8.")
    ] = None,
    nlist: Annotated[int | None, typer.Option(min=1, help="Number of lists.")] = None,
    train_from_rows: Annotated[
        int | None, typer.Option(min=1, help="Rows from which the index is trained.")
    ] = None,
    row_filter: Annotated[
        str | None, typer.Option(metavar="SQL", help="Mirror only rows for which this holds.")
    ] = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the source, make a publication and an index, and say what comes next."""
    settings = settings_with(server)
    dsn, text = dsn_and_target(settings, first, second)
    if text is None:
        raise CommandFailed("which column? Give it as schema.table.column", Exit.USAGE)
    target = parse_target(text)
    names = [column.strip() for column in filter_columns.split(",") if column.strip()]
    params = {
        "raw_dtype": raw_dtype,
        "code_bits": code_bits,
        "nlist": nlist,
        "train_from_rows": train_from_rows,
    }
    request: dict[str, Any] = {
        "name": default_name(target) if name is None else name,
        "metric": metric or settings.index.metric,
        "params": {key: value for key, value in params.items() if value is not None},
    }
    with open_client(settings) as client, connect(dsn) as connection:
        table = inspect_table(connection, *target, names, dim=dim)
        published = publication_state(connection, object_name(request["name"]), table.relation_id)
        _check_source(dsn, target, published=published is not None, as_json=as_json)
        done = attach_column(client, connection, table, request, row_filter=row_filter)
    _report(done, dsn, as_json=as_json)


def default_name(target: Target) -> str:
    """Return the index name for a column: table and column, in the letters names may have."""
    parts = [target.table, target.column]
    if target.schema != "public":
        parts.insert(0, target.schema)
    return re.sub(r"[^a-z0-9_.-]", "_", "_".join(parts).lower())[:NAME_LIMIT_BYTES].lstrip(".-")


def object_name(index: str) -> str:
    """Return the name of an index's publication and slot; slot names have no dots or dashes."""
    return (
        OBJECT_PREFIX + re.sub(r"[^a-z0-9_]", "_", index)[: NAME_LIMIT_BYTES - len(OBJECT_PREFIX)]
    )


def attach_column(
    client: Client,
    connection: psycopg.Connection[tuple[Any, ...]],
    table: TableSpec,
    request: dict[str, Any],
    *,
    row_filter: str | None = None,
) -> Attached:
    """Make publication and index unless they are there; raise CommandFailed for another's name.

    ``request`` is the body of the HTTP call without table and names. A publication made here goes
    away again when the server refuses the index.
    """
    existing = _existing(client, request["name"])
    if existing is not None:
        _check_same(existing, table, request)
        return Attached(existing, created=False, statements=[])
    names = object_name(request["name"])
    statements = []
    if publication_state(connection, names, table.relation_id) is None:
        statements.append(create_publication(connection, names, table, row_filter=row_filter))
    else:
        check_publication(connection, names, table)
    try:
        index = client.create(
            {
                **request,
                "table": asdict(table),
                "publication": names,
                "slot": names,
                "database": current_database(connection),
            }
        )
    except BaseException:
        if statements:
            drop_publication(connection, names)
        raise
    return Attached(index, created=True, statements=statements)


def _existing(client: Client, name: str) -> dict[str, Any] | None:
    try:
        return client.describe(name)
    except ServerRefused as refused:
        if refused.status == NOT_FOUND:
            return None
        raise


def _check_same(index: dict[str, Any], table: TableSpec, request: dict[str, Any]) -> None:
    """Raise CommandFailed unless an index is the one that is asked for."""
    spec = index["spec"]
    found = TableSpec.from_json(spec["table"])
    if found != table or spec["metric"] != request["metric"]:
        raise CommandFailed(
            f"index {index['name']} exists and mirrors {found.qualified_name}."
            f"{found.vector_column} ({spec['metric']}) in another form; choose another --name, "
            f"or remove it first: vecmirror detach {index['name']}"
        )


def _check_source(dsn: str, target: Target, *, published: bool, as_json: bool) -> None:
    """Show the findings that prevent mirroring and raise CommandFailed, if there are any."""
    # The table was inspected with the columns and the dimension that were asked for; an owner may
    # have made the publication for a role that cannot.
    passed = {"table", "publication-owner", "publication-create"} if published else {"table"}
    findings = [each for each in blocking(examine(dsn, target)) if each.code not in passed]
    if not findings:
        return
    if not as_json:
        print_findings(console(stderr=True), findings)
    raise CommandFailed(
        "the source is not ready to be mirrored; mend what is listed, then attach again",
        details={"findings": [asdict(finding) for finding in findings]},
    )


def _report(done: Attached, dsn: str, *, as_json: bool) -> None:
    spec = done.index["spec"]
    if as_json:
        print_json({"created": done.created, "statements": done.statements, "index": done.index})
        return
    out = console()
    name, table = done.index["name"], TableSpec.from_json(spec["table"])
    if not done.created:
        out.print(f"index {name} is attached already; nothing was changed", markup=False)
        return
    columns = ", ".join(column.name for column in table.columns) or "none"
    lines = [
        f"source       {shown_dsn(dsn)}",
        f"column       {table.qualified_name}.{table.vector_column}, {table.vector_type}, "
        f"{table.dim} dimensions",
        f"key          {', '.join(column.name for column in table.key)}",
        f"filters      {columns}",
        *(f"ran          {statement}" for statement in done.statements),
        f"publication  {spec['publication']}",
        f"slot         {spec['slot']} (made by vecmirror sync when it starts to copy)",
        f"index        {name}, {spec['metric']}",
    ]
    for line in lines:
        out.print(f"[green]✓[/] {escape(line)}", soft_wrap=True)
    out.print("\nnext: [bold]vecmirror sync[/]   (with VECMIRROR_SOURCE__DSN set to the same DSN)")
