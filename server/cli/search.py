"""``vecmirror search``: a search by hand."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from .options import JsonOption, NameArgument, ServerOption, open_client, settings_with
from .output import CommandFailed, Exit, console, print_json, table


def search(
    name: NameArgument,
    like: Annotated[
        str | None, typer.Option(metavar="KEY", help="Rows near the row with this key.")
    ] = None,
    vector: Annotated[
        str | None, typer.Option(metavar="JSON", help="Rows near this vector, '[0.1, 0.2, …]'.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of hits.")] = 10,
    where: Annotated[
        str | None, typer.Option("--filter", metavar="SQL", help="Only rows for which this holds.")
    ] = None,
    columns: Annotated[str, typer.Option(metavar="A,B", help="Filter columns to show.")] = "",
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every row.")] = False,
    strong: Annotated[
        bool, typer.Option("--strong", help="Miss no commit made before now.")
    ] = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search an index by the key of a row, or by a vector."""
    if (like is None) == (vector is None):
        raise CommandFailed("give either --like KEY or --vector JSON", Exit.USAGE)
    shown = [column.strip() for column in columns.split(",") if column.strip()]
    with open_client(settings_with(server)) as client:
        request: dict[str, Any] = {"k": k, "columns": shown, "exact": exact}
        if like is not None:
            key = client.describe(name)["spec"]["table"]["key"]
            request["like"] = _key(like, [column["type"] for column in key])
        else:
            request["vector"] = _vector(vector or "")
        if where is not None:
            request["filter"] = where
        if strong:
            request["consistency"] = "strong"
        answer = client.search(name, request)
    if as_json:
        print_json(answer)
        return
    rows = [
        [str(hit["key"]), hit["distance"], *((hit["columns"] or {}).get(c) for c in shown)]
        for hit in answer["hits"]
    ]
    out = console()
    out.print(table(["key", "distance", *shown], rows))
    out.print(f"[dim]{len(rows)} hits as of {answer['applied_lsn']}, {answer['took_ms']:.1f} ms[/]")


def _vector(text: str) -> list[float]:
    try:
        vector = json.loads(text)
    except ValueError:
        vector = None
    numbers = isinstance(vector, list) and all(
        isinstance(x, int | float) and not isinstance(x, bool) for x in vector
    )
    if not vector or not numbers:
        raise CommandFailed("--vector is a JSON array of numbers, like '[0.1, 0.2]'", Exit.USAGE)
    return [float(x) for x in vector]


def _key(text: str, types: list[str]) -> object:
    """Read a key as its columns' types want it; several columns are given as a JSON array."""
    values: list[object] = [text]
    if len(types) > 1:
        try:
            values = list(json.loads(text))
        except (ValueError, TypeError):
            values = []
        if len(values) != len(types):
            raise CommandFailed(f"--like is a JSON array of {len(types)} key values", Exit.USAGE)
    try:
        typed = [
            int(str(value)) if kind.startswith("int") else str(value)
            for value, kind in zip(values, types, strict=True)
        ]
    except ValueError as error:
        raise CommandFailed("the key in --like has integer columns", Exit.USAGE) from error
    return typed if len(typed) > 1 else typed[0]
