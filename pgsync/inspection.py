"""What a table looks like: the catalog of the source -> TableSpec, or an error that says the mend.

Everything that could make a mirror wrong or harm the application is refused here, before anything
is created: a table without a usable key (the application's own UPDATE and DELETE would fail once
it is published), types without an exact binary form here, tables Postgres cannot publish.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, class_row

from .connections import translated
from .dimension import find_dimension
from .errors import SourceError
from .table import FILTER_TYPES, KEY_TYPES, ColumnSpec, TableSpec, VectorType

VECTOR_TYPES = ("vector", "halfvec", "sparsevec", "float4[]", "float8[]")

#: Stored generated columns can be published from here on, when a column list names them.
GENERATED_COLUMNS_SINCE = 18_00_00

_NAME = re.compile(r'"((?:[^"]|"")+)"|([^\W\d][\w$]*)')

#: Postgres' internal type names that differ from the names used here.
_CANONICAL = {"varchar": "text", "bpchar": "text"} | {
    f"_{name}": f"{name}[]" for name in ("int2", "int4", "int8", "text", "float4", "float8")
}
_CANONICAL["_varchar"] = "text[]"

_RELATION_SQL = """
SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind AS kind,
       c.relpersistence AS persistence, c.relreplident AS replica_identity,
       c.reloptions::text AS options
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s
"""

# The base type of a domain is what travels: a domain shares its binary form.
_COLUMNS_SQL = """
WITH RECURSIVE base AS (
    SELECT a.attnum, a.atttypid AS type_id, a.atttypmod AS typmod
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
    SELECT base.attnum, t.typbasetype, CASE WHEN t.typtypmod >= 0 THEN t.typtypmod ELSE typmod END
    FROM base JOIN pg_catalog.pg_type t ON t.oid = base.type_id
    WHERE t.typtype = 'd'
)
SELECT a.attname AS name, t.typname AS type_name, n.nspname AS type_schema,
       t.typtype AS type_kind, base.typmod, a.attgenerated AS generated,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS declared
FROM base
JOIN pg_catalog.pg_attribute a ON a.attrelid = %s AND a.attnum = base.attnum
JOIN pg_catalog.pg_type t ON t.oid = base.type_id
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE t.typtype <> 'd'
ORDER BY a.attnum
"""

# Postgres ignores a deferrable primary key as replica identity, so it is left out here too.
_KEY_SQL = """
SELECT a.attname
FROM pg_catalog.pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, position)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = %(oid)s AND i.indisvalid AND i.indimmediate AND k.position <= i.indnkeyatts
  AND CASE WHEN %(identity)s = 'i' THEN i.indisreplident ELSE i.indisprimary END
ORDER BY k.position
"""


class Target(NamedTuple):
    """The column to mirror, as the operator named it."""

    schema: str
    table: str
    column: str


@dataclass(frozen=True, slots=True)
class _Relation:
    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    replica_identity: str
    options: str | None


@dataclass(frozen=True, slots=True)
class CatalogColumn:
    """A column as the catalog has it; ``type_name`` is Postgres' own, domains resolved."""

    name: str
    type_name: str
    type_schema: str
    type_kind: str
    typmod: int
    generated: str
    declared: str

    @property
    def type(self) -> str:
        """The canonical type name, or ``declared`` when there is none."""
        if self.type_name in {"vector", "halfvec", "sparsevec"}:
            return self.type_name
        if self.type_schema != "pg_catalog":
            return self.declared
        return _CANONICAL.get(self.type_name, self.type_name)


def parse_target(text: str) -> Target:
    """Read ``schema.table.column`` or ``table.column`` with Postgres' quoting and case rules.

    Unquoted names fold to lower case, a missing schema is ``public``. Raises SourceError.
    """
    parts: list[str] = []
    position = 0
    while match := _NAME.match(text, position):
        quoted, plain = match.groups()
        parts.append(quoted.replace('""', '"') if quoted is not None else plain.lower())
        position = match.end() + 1
        if text[match.end() : position] != ".":
            break
    if position != len(text) + 1 or len(parts) not in {2, 3}:
        raise SourceError('name the column as schema.table.column, like public.docs."Embedding"')
    return Target(*(["public", *parts] if len(parts) == 2 else parts))


def inspect_table(
    conn: psycopg.Connection[TupleRow],
    schema: str,
    table: str,
    vector_column: str,
    filter_columns: Sequence[str] = (),
    *,
    dim: int | None = None,
) -> TableSpec:
    """Return what must be known to mirror a column; raise SourceError with the mend.

    ``dim`` is needed for a column without a declared dimension in an empty table; otherwise most
    rows of a sample decide.
    """
    with translated(f"inspect {schema}.{table}"):
        relation = _relation(conn, schema, table)
        columns = _columns(conn, relation.oid)
        _check_relation(relation)
        vector = _vector_column(relation, columns, vector_column)
        key = _key(conn, relation, columns)
        filters = _filters(relation, columns, filter_columns)
        _check_generated(conn.info.server_version, relation, [vector, *filters])
        return TableSpec(
            schema=relation.schema,
            table=relation.name,
            relation_id=relation.oid,
            vector_column=vector.name,
            vector_type=cast(VectorType, vector.type),
            dim=find_dimension(conn, relation.schema, relation.name, vector, dim),
            key=tuple(ColumnSpec(column.name, column.type) for column in key),
            columns=tuple(ColumnSpec(column.name, column.type) for column in filters),
        )


def _relation(conn: psycopg.Connection[Any], schema: str, table: str) -> _Relation:
    with conn.cursor(row_factory=class_row(_Relation)) as cursor:
        found = cursor.execute(_RELATION_SQL, (schema, table)).fetchone()
    if found is None:
        raise SourceError(
            f"there is no table {schema}.{table} in database {conn.info.dbname}; "
            "unquoted names are lower case"
        )
    return found


def _columns(conn: psycopg.Connection[Any], oid: int) -> dict[str, CatalogColumn]:
    with conn.cursor(row_factory=class_row(CatalogColumn)) as cursor:
        return {column.name: column for column in cursor.execute(_COLUMNS_SQL, (oid, oid))}


def _check_relation(relation: _Relation) -> None:
    """Raise SourceError for relations that logical replication cannot carry."""
    kinds = {
        "v": "is a view: mirror the table below it",
        "m": "is a materialized view: logical replication carries tables only",
        "f": "is a foreign table: mirror it where its rows are stored",
        "S": "is a sequence",
        "i": "is an index",
        "c": "is a composite type",
    }
    name = f"{relation.schema}.{relation.name}"
    if relation.kind not in {"r", "p"}:
        raise SourceError(f"{name} {kinds.get(relation.kind, 'is not a table')}")
    if relation.persistence == "u":
        alter = _render("ALTER TABLE {} SET LOGGED", relation)
        raise SourceError(f"{name} is unlogged, so its changes are not in the log; run: {alter}")
    if relation.persistence == "t":
        raise SourceError(f"{name} is a temporary table, which only its own session sees")


def _vector_column(
    relation: _Relation, columns: dict[str, CatalogColumn], name: str
) -> CatalogColumn:
    column = _named(relation, columns, name)
    if column.type not in VECTOR_TYPES:
        raise SourceError(
            f"column {name} has type {column.declared}; "
            f"a mirrored column is one of {', '.join(VECTOR_TYPES)}"
        )
    return column


def _key(
    conn: psycopg.Connection[Any], relation: _Relation, columns: dict[str, CatalogColumn]
) -> list[CatalogColumn]:
    if relation.replica_identity == "n":
        alter = _render("ALTER TABLE {} REPLICA IDENTITY DEFAULT", relation)
        raise SourceError(
            f"{relation.schema}.{relation.name} has REPLICA IDENTITY NOTHING: once published, "
            f"your own UPDATE and DELETE would fail; run: {alter}"
        )
    asked = {"oid": relation.oid, "identity": relation.replica_identity}
    names = [str(row[0]) for row in conn.execute(_KEY_SQL, asked).fetchall()]
    if not names:
        raise SourceError(_no_key_message(relation))
    key = [columns[name] for name in names]
    for column in key:
        if column.type not in KEY_TYPES:
            raise SourceError(
                f"key column {column.name} has type {column.declared}; a key column is one of "
                f"{', '.join(sorted(KEY_TYPES))}. Choose a unique index over such columns with "
                + _render("ALTER TABLE {} REPLICA IDENTITY USING INDEX name", relation)
            )
    return key


def _no_key_message(relation: _Relation) -> str:
    mend = _render("ALTER TABLE {} ADD PRIMARY KEY (id)", relation)
    return (
        f"{relation.schema}.{relation.name} has no usable key (a primary key that is not "
        "deferrable, or a replica identity index), so rows cannot be told apart and, once "
        f"published, your own UPDATE and DELETE would fail; run for example: {mend}"
    )


def _filters(
    relation: _Relation, columns: dict[str, CatalogColumn], names: Sequence[str]
) -> list[CatalogColumn]:
    if len(set(names)) != len(names):
        raise SourceError("a filter column is named twice")
    if len(names) > 64:
        # The change batch marks unchanged columns in one 64 bit word.
        raise SourceError("an index mirrors at most 64 filter columns")
    found = [_named(relation, columns, name) for name in names]
    for column in found:
        if column.type not in FILTER_TYPES:
            raise SourceError(_unsupported_filter(column))
    return found


def _unsupported_filter(column: CatalogColumn) -> str:
    instead = {
        "numeric": "store it as float8, or as int8 in the smallest unit",
        "jsonb": "store the fields you filter by in columns of their own",
        "json": "store the fields you filter by in columns of their own",
        "time": "store it as int4 seconds or as a timestamp",
        "interval": "store it as int8 microseconds",
    }.get(column.type_name)
    if instead is None and column.type_kind == "e":
        instead = "an enum has an order of its own; store its label as text"
    mend = instead or "store what you filter by in a column of a supported type, or leave it out"
    return (
        f"filter column {column.name} has type {column.declared}, which cannot be mirrored: "
        f"{mend}. Supported: {', '.join(sorted(FILTER_TYPES))}"
    )


def _check_generated(version: int, relation: _Relation, columns: Sequence[CatalogColumn]) -> None:
    """Raise SourceError for generated columns that this server does not replicate."""
    for column in columns:
        if column.generated == "v":
            raise SourceError(f"column {column.name} is a virtual generated column: not in the log")
        if column.generated == "s" and version < GENERATED_COLUMNS_SINCE:
            raise SourceError(
                f"column {column.name} is generated, and Postgres replicates generated columns "
                "from version 18 on; keep an ordinary column up to date with a trigger instead"
            )
        if column.generated == "s" and relation.replica_identity == "f":
            alter = _render("ALTER TABLE {} REPLICA IDENTITY DEFAULT", relation)
            raise SourceError(
                f"column {column.name} is generated and must be named in a column list, which "
                f"REPLICA IDENTITY FULL does not allow; run: {alter}"
            )


def _named(relation: _Relation, columns: dict[str, CatalogColumn], name: str) -> CatalogColumn:
    try:
        return columns[name]
    except KeyError:
        table = f"{relation.schema}.{relation.name}"
        raise SourceError(f"{table} has no column {name}; it has {', '.join(columns)}") from None


def _render(statement: str, relation: _Relation) -> str:
    table = sql.Identifier(relation.schema, relation.name)
    return sql.SQL(statement).format(table).as_string(None)
