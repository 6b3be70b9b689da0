"""From what is wanted and what is there to the statements that lead from one to the other.

Invariants:

- What is there already, unchanged, is left alone: a second installation changes nothing.
- The objects of one index are replaced together, and who could read them still can.
- Nothing that is not marked as ours is dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from server.spec import IndexSpec

from .facts import ClientFacts, Existing, Kind, Options, PortAddress
from .foreign import (
    alter_mapping,
    create_foreign_table,
    create_mapping,
    create_server,
    role_name,
    server_options,
)
from .functions import create_search, create_search_any, search_argument_types
from .names import IndexNames, tag
from .removal import drop
from .statement import Statement, options, qualified
from .view import create_row_function, create_view, key_types

DIGEST_LETTERS = 12


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An object to have, and the statement that makes it. ``arguments``: of a function."""

    kind: Kind
    name: str
    index: str | None
    create: sql.Composed
    arguments: str = ""

    @property
    def digest(self) -> str:
        """Tell this object from another of its name."""
        text = self.create.as_string(None)
        return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LETTERS]


def install_statements(
    spec: IndexSpec, address: PortAddress, wanted: Options, facts: ClientFacts
) -> list[Statement]:
    """Return what installs an index: to run in one transaction, in order.

    Without a look at the database the statements take away what an earlier script made. Raises
    ValueError for a name that Postgres cannot have in a function.
    """
    return [
        *_extensions(facts),
        *_schema(wanted, facts),
        *_server(address, wanted, facts),
        *_mappings(wanted, facts),
        *_replace([_any_index(wanted, facts)], None, wanted, facts),
        *_replace(list(_objects(spec, wanted, facts)), spec.name, wanted, facts),
        *_grants(spec, wanted, facts),
    ]


def _extensions(facts: ClientFacts) -> Iterator[Statement]:
    for name in facts.missing_extensions:
        yield Statement.of(
            sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(sql.Identifier(name))
        )


def _schema(wanted: Options, facts: ClientFacts) -> Iterator[Statement]:
    if facts.schema_exists:
        return
    name = sql.Identifier(wanted.schema)
    if facts.looked:
        yield Statement.of(sql.SQL("CREATE SCHEMA {}").format(name))
        yield _comment(sql.SQL("SCHEMA {}").format(name), tag(None, "schema"))
    else:
        yield Statement.of(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))


def _server(address: PortAddress, wanted: Options, facts: ClientFacts) -> Iterator[Statement]:
    values, name = server_options(address, wanted, facts), wanted.server
    there = facts.server_options
    if there is None:
        yield Statement.of(create_server(name, values))
        yield _comment(sql.SQL("SERVER {}").format(sql.Identifier(name)), tag(None, "server"))
    changes: dict[str, dict[str, str]] = {"SET": values, "ADD": {}}
    if there is not None:
        changes = {
            "SET": {k: v for k, v in values.items() if k in there and there[k] != v},
            "ADD": {k: v for k, v in values.items() if k not in there},
        }
    elif facts.looked:
        return
    for verb, changed in changes.items():
        if changed:
            alter = sql.SQL("ALTER SERVER {} {}").format(
                sql.Identifier(name), options(changed, verb)
            )
            yield Statement.of(alter)


def _mappings(wanted: Options, facts: ClientFacts) -> Iterator[Statement]:
    for role in wanted.mapped_roles:
        name = facts.current_user or role if role == "CURRENT_USER" else role
        if name not in facts.mappings:
            yield create_mapping(role, wanted)
        if wanted.key is None or (facts.looked and name not in facts.mappings):
            continue
        there = facts.mappings.get(name)
        if there is None or there.get("password") != wanted.key:
            new = there is not None and "password" not in there
            yield alter_mapping(role, wanted, "ADD" if new else "SET")


def _any_index(wanted: Options, facts: ClientFacts) -> _Wanted:
    create = create_search_any(wanted, facts)
    return _Wanted("FUNCTION", "search", None, create, f"text, {search_argument_types(facts)}")


def _objects(spec: IndexSpec, wanted: Options, facts: ClientFacts) -> Iterator[_Wanted]:
    """Yield the objects of one index in the order in which they can be made."""
    names, index = IndexNames.of(spec.name), spec.name
    for name, light in ((names.table, False), (names.light, True)):
        create = create_foreign_table(spec, name, wanted, facts, light=light)
        yield _Wanted("FOREIGN TABLE", name, index, create)
    search = create_search(spec, names, wanted, facts)
    yield _Wanted("FUNCTION", names.search, index, search, search_argument_types(facts))
    if facts.base is not None:
        row = create_row_function(spec, names, facts.base, wanted)
        yield _Wanted("FUNCTION", names.row, index, row, key_types(spec).as_string(None))
        yield _Wanted("VIEW", names.view, index, create_view(spec, names, facts.base, wanted))


def _replace(
    objects: list[_Wanted], index: str | None, wanted: Options, facts: ClientFacts
) -> Iterator[Statement]:
    """Drop and make the objects of one index, unless all of them are there as they should be."""
    there = [each for each in facts.existing if each.index == index and each.schema is not None]
    same = {(each.kind, each.name, each.digest) for each in there}
    if facts.looked and same == {(each.kind, each.name, each.digest) for each in objects}:
        return
    if not facts.looked:
        there = [_expected(each, wanted) for each in objects]
    yield from drop(there)
    for each in objects:
        yield Statement.of(each.create)
        yield _comment(_identity(each, wanted), tag(index, each.digest))
        readers = [old.readers for old in there if (old.kind, old.name) == (each.kind, each.name)]
        for role in (role for roles in readers for role in roles):
            yield _grant(each.name, role, wanted)


def _expected(each: _Wanted, wanted: Options) -> Existing:
    return Existing(
        kind=each.kind,
        schema=wanted.schema,
        name=each.name,
        index=each.index,
        digest="",
        arguments=each.arguments,
    )


def _identity(each: _Wanted, wanted: Options) -> sql.Composed:
    form = f"{each.kind} {{}}" + (f"({each.arguments})" if each.kind == "FUNCTION" else "")
    return sql.SQL(form).format(qualified(wanted.schema, each.name))


def _grants(spec: IndexSpec, wanted: Options, facts: ClientFacts) -> Iterator[Statement]:
    """Let readers use the view: USAGE of the schema and SELECT, nothing on the foreign tables."""
    if facts.base is None:
        return
    for role in wanted.readers:
        usage = sql.SQL("GRANT USAGE ON SCHEMA {} TO {}")
        yield Statement.of(usage.format(sql.Identifier(wanted.schema), role_name(role)))
        yield _grant(IndexNames.of(spec.name).view, role, wanted)


def _grant(name: str, role: str, wanted: Options) -> Statement:
    form = sql.SQL("GRANT SELECT ON {} TO {}")
    return Statement.of(form.format(qualified(wanted.schema, name), role_name(role)))


def _comment(on: sql.Composable, text: str) -> Statement:
    return Statement.of(sql.SQL("COMMENT ON {} IS {}").format(on, sql.Literal(text)))
