"""Questions about the catalog of a Postgres that clients ask, known by their text.

What postgres_fdw asks for ANALYZE and IMPORT FOREIGN SCHEMA, drivers about types. Answers follow
the SELECT list, because versions differ in its order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .answers import Column
from .errors import SqlError
from .statements import CatalogQuery
from .tables import SCHEMAS, IndexTable
from .types import (
    BOOL,
    CHAR,
    FLOAT4,
    INT4,
    INT8,
    NAME,
    OID,
    TEXT,
    SqlType,
    type_named,
    type_of,
)

#: Rows that a page of 8,192 bytes would hold, roughly: pg_relation_size is about pages.
_PAGE_BYTES = 8192
#: Types with greater oids are not Postgres' own.
_NAMESPACE = 16_384

Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """An index table and what the catalog says about its size."""

    table: IndexTable
    rows: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a question is answered with."""

    columns: tuple[Column, ...]
    rows: list[Row]


#: The beginnings by which questions are known, a space standing for any white space.
_BEGINNINGS = {
    "relation_size": r"select pg_catalog\.pg_relation_size\(",
    "relation_info": r"select rel\w+(?:, rel\w+)* from pg_catalog\.pg_class\b",
    "namespace": r"select 1 from pg_catalog\.pg_namespace where nspname",
    "import": r"select relname, attname,",
    "type_info": r"select typname as name, oid",
    "type_kind": r"select t\.oid, t\.typelem as elemtype",
    "type_tree": r"with recursive typeinfo_tree",
}
_KINDS = {
    kind: re.compile(beginning.replace(", ", r"\s*,\s*").replace(" ", r"\s+"), re.IGNORECASE)
    for kind, beginning in _BEGINNINGS.items()
}
_PARAMETER = re.compile(r"\$(\d+)")
_LITERAL = re.compile(r"'((?:[^']|'')*)'")
_IMPORTED_NAMES = re.compile(
    r"\b(?:relname|attname|format_type|attnotnull|pg_get_expr|attgenerated|collname|nspname)\b"
)


def recognised(text: str) -> CatalogQuery | None:
    """Return the question that a statement is, None if it is none of these."""
    if "pg_" not in text and "typ" not in text:
        return None
    stripped = text.lstrip()
    for kind, pattern in _KINDS.items():
        if pattern.match(stripped):
            places = [int(number) for number in _PARAMETER.findall(stripped)]
            return CatalogQuery(kind, stripped.rstrip().rstrip(";"), max(places, default=0))
    return None


def columns_of(query: CatalogQuery) -> tuple[Column, ...]:
    """Return the columns of the answer."""
    return _ANSWERS[query.kind](query, (), ()).columns


def parameter_oids(query: CatalogQuery) -> tuple[int, ...]:
    """Return the types of the question's parameters."""
    array = type_of(1028)
    assert array is not None
    if query.kind == "type_tree":
        return (array.oid,) * query.parameters
    return (TEXT,) * query.parameters


def answer(
    query: CatalogQuery, parameters: Sequence[object], relations: Sequence[Relation]
) -> Found:
    """Answer a question; raise SqlError if it names a table that is no index."""
    return _ANSWERS[query.kind](query, parameters, relations)


def asked_table(query: CatalogQuery) -> str | None:
    """Return the table that ANALYZE is about to sample, if that is why the question is asked."""
    if query.kind not in ("relation_size", "relation_info"):
        return None
    return _regclass(query.text)


def _relation(query: CatalogQuery, relations: Sequence[Relation]) -> Relation | None:
    name = _regclass(query.text)
    for relation in relations:
        if relation.table.name == name:
            return relation
    if relations == ():  # asked for the columns only
        return None
    raise SqlError("42P01", f'relation "{name}" does not exist')


def _regclass(text: str) -> str:
    """Return the last part of the name in ``'schema.name'::regclass``."""
    match = _LITERAL.search(text)
    name = match[1].replace("''", "'") if match else ""
    parts = re.findall(r'"((?:[^"]|"")*)"|([^".]+)', name)
    return next((quoted.replace('""', '"') or bare for quoted, bare in reversed(parts)), "")


def _relation_size(
    query: CatalogQuery, parameters: Sequence[object], relations: Sequence[Relation]
) -> Found:
    relation = _relation(query, relations)
    rows: list[Row] = []
    if relation is not None:
        row_bytes = 4 * relation.table.spec.table.dim + 64
        pages = relation.rows * row_bytes // _PAGE_BYTES + 1
        in_pages = re.search(r"/\s*8192\s*$", query.text) is not None
        rows = [(pages if in_pages else pages * _PAGE_BYTES,)]
    return Found((Column("?column?", INT8),), rows)


def _relation_info(
    query: CatalogQuery, parameters: Sequence[object], relations: Sequence[Relation]
) -> Found:
    relation = _relation(query, relations)
    known: dict[str, tuple[int, Callable[[Relation], object]]] = {
        "reltuples": (FLOAT4, lambda found: float(found.rows)),
        "relkind": (CHAR, lambda found: "f"),
        "relname": (NAME, lambda found: found.table.name),
        "relpages": (INT4, lambda found: found.rows // 8 + 1),
    }
    names = re.findall(r"\brel\w+", _select_list(query.text))
    if not known.keys() >= set(names):
        raise SqlError("42703", "this column of pg_class is not served here")
    chosen = [(name, *known[name]) for name in names]
    columns = tuple(Column(name, oid) for name, oid, _ in chosen)
    return Found(columns, [tuple(value(relation) for *_, value in chosen)] if relation else [])


def _select_list(text: str) -> str:
    return re.split(r"\bfrom\b", text, maxsplit=1, flags=re.IGNORECASE)[0]


def _namespace(
    query: CatalogQuery, parameters: Sequence[object], relations: Sequence[Relation]
) -> Found:
    match = _LITERAL.search(query.text)
    known = match is not None and match[1] in SCHEMAS
    return Found((Column("?column?", INT4),), [(1,)] if known else [])


def _import(
    query: CatalogQuery, parameters: Sequence[object], relations: Sequence[Relation]
) -> Found:
    """Answer IMPORT FOREIGN SCHEMA; what is not asked for is left out."""
    names = _IMPORTED_NAMES.findall(_select_list(query.text))
    wanted = _imported(query.text)
    rows = [
        tuple(row[name] for name in names)
        for relation in sorted(relations, key=lambda known: known.table.name)
        if wanted(relation.table.name)
        for row in _attributes(relation.table)
    ]
    types = {"attnotnull": BOOL, "attgenerated": CHAR, "format_type": TEXT, "pg_get_expr": TEXT}
    return Found(tuple(Column(name, types.get(name, NAME)) for name in names), rows)


def _attributes(table: IndexTable) -> list[dict[str, object]]:
    return [
        {
            "relname": table.name,
            "attname": column.name,
            "format_type": column.declared,
            "attnotnull": column.role == "key",
            "pg_get_expr": None,
            "attgenerated": "",
            "collname": "C" if column.type.name in ("text", "_text") else None,
            "nspname": "pg_catalog" if column.type.name in ("text", "_text") else None,
        }
        for column in table.columns.values()
    ]


def _imported(text: str) -> Callable[[str], bool]:
    """Return the test that LIMIT TO or EXCEPT makes of table names."""
    schema = re.search(r"n\.nspname\s*=\s*'((?:[^']|'')*)'", text)
    if schema is None or schema[1] not in SCHEMAS:
        return lambda name: False
    limit = re.search(r"c\.relname\s+(not\s+)?in\s*\(([^)]*)\)", text, re.I)
    if limit is None:
        return lambda name: True
    listed = {item.replace("''", "'") for item in _LITERAL.findall(limit[2])}
    excluded = limit[1] is not None
    return lambda name: (name in listed) != excluded


def _type_info(
    query: CatalogQuery, parameters: Sequence[object], relations: Sequence[Relation]
) -> Found:
    """Answer psycopg's TypeInfo.fetch, which knows a type by its name."""
    literal = _LITERAL.search(query.text)
    name = str(parameters[0]) if parameters else literal[1] if literal else ""
    columns = (
        Column("name", NAME),
        Column("oid", OID),
        Column("array_oid", OID),
        Column("regtype", TEXT),
        Column("delimiter", CHAR),
    )
    found = type_named(name.rpartition(".")[2].strip('"').lower())
    if found is None:
        return Found(columns, [])
    return Found(columns, [(found.name, found.oid, found.array_oid, found.spoken, ",")])


def _type_kind(
    query: CatalogQuery, parameters: Sequence[object], relations: Sequence[Relation]
) -> Found:
    """Answer asyncpg's question before set_type_codec."""
    columns = (Column("oid", OID), Column("elemtype", OID), Column("kind", CHAR))
    found = type_named(str(parameters[0])) if parameters else None
    return Found(columns, [(found.oid, found.element_oid, "b")] if found else [])


def _type_tree(
    query: CatalogQuery, parameters: Sequence[object], relations: Sequence[Relation]
) -> Found:
    """Answer asyncpg's introspection of types that it does not know."""
    oids = parameters[0] if parameters else ()
    assert isinstance(oids, (tuple, list))
    known = [found for found in map(type_of, oids) if found is not None]
    elements = [type_of(found.element_oid) for found in known if found.element_oid]
    chosen = dict.fromkeys([*(found for found in elements if found), *known])
    return Found(tuple(_TREE), [_tree_row(found) for found in chosen])


_TREE = (
    Column("oid", OID),
    Column("ns", NAME),
    Column("name", NAME),
    Column("kind", CHAR),
    Column("basetype", OID),
    Column("elemtype", OID),
    Column("elemdelim", CHAR),
    Column("range_subtype", OID),
    Column("attrtypoids", 1028),
    Column("attrnames", 1009),
    Column("depth", INT4),
    Column("basetype_name", TEXT),
    Column("elemtype_name", TEXT),
    Column("range_subtype_name", TEXT),
)


def _tree_row(found: SqlType) -> Row:
    element = type_of(found.element_oid)
    shown: dict[str, Any] = {
        "oid": found.oid,
        "ns": "public" if found.oid > _NAMESPACE else "pg_catalog",
        "name": found.name,
        "kind": "b",
        "elemtype": found.element_oid or None,
        "elemdelim": ",",
        "depth": 0 if element is None else 1,
        "elemtype_name": element.name if element else None,
    }
    return tuple(shown.get(column.name) for column in _TREE)


_ANSWERS: dict[str, Callable[[CatalogQuery, Sequence[object], Sequence[Relation]], Found]] = {
    "relation_size": _relation_size,
    "relation_info": _relation_info,
    "namespace": _namespace,
    "import": _import,
    "type_info": _type_info,
    "type_kind": _type_kind,
    "type_tree": _type_tree,
}
