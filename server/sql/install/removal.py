"""The way back: drop what an installation made, told by the comments on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import sql

from .facts import ClientFacts, Existing, Kind, Options
from .foreign import role_name
from .statement import Statement

#: What can be dropped first: views use tables and functions, tables use the server.
_ORDER: tuple[Kind, ...] = ("VIEW", "FUNCTION", "FOREIGN TABLE", "SERVER", "SCHEMA")


def drop(objects: Sequence[Existing]) -> Iterator[Statement]:
    """Yield what drops objects of ours; whoever built upon them is told by Postgres' refusal."""
    for each in sorted(objects, key=lambda each: _ORDER.index(each.kind)):
        parts = [part for part in (each.schema, each.name) if part is not None]
        arguments = f"({each.arguments})" if each.kind == "FUNCTION" else ""
        form = sql.SQL(f"DROP {each.kind} IF EXISTS {{}}{arguments}")
        yield Statement.of(form.format(sql.Identifier(*parts)))


def removal_statements(index: str | None, wanted: Options, facts: ClientFacts) -> list[Statement]:
    """Return what removes one index (None: all); with the last one goes what they shared.

    Extensions stay: others may have begun to use them.
    """
    own = [each for each in facts.existing if each.index is not None]
    going = [each for each in own if index is None or each.index == index]
    statements = list(drop(going))
    if len(going) < len(own):
        return statements
    shared = [each for each in facts.existing if each.index is None]
    statements += drop([each for each in shared if each.kind == "FUNCTION"])
    if any(each.kind == "SERVER" for each in shared):
        form = sql.SQL("DROP USER MAPPING IF EXISTS FOR {} SERVER {}")
        statements += [
            Statement.of(form.format(role_name(role), sql.Identifier(wanted.server)))
            for role in facts.mappings
        ]
    statements += drop([each for each in shared if each.kind in {"SERVER", "SCHEMA"}])
    return statements
