"""How many components a vector column has: declared, told, or found in a sample of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from .errors import SourceError

if TYPE_CHECKING:
    from .inspection import CatalogColumn

#: pgvector's own limit for ``vector``; a sparsevec may declare more, but is stored densely here.
MAX_DIM = 16_000

#: Enough rows to see the majority; the first ones are read, which costs no full scan.
SAMPLE_ROWS = 1_000


def find_dimension(
    conn: psycopg.Connection[Any], schema: str, table: str, column: CatalogColumn, told: int | None
) -> int:
    """Return the number of components every mirrored vector has; raise SourceError."""
    declared = column.typmod if column.typmod > 0 and not column.type.endswith("[]") else None
    if told is not None and declared is not None and told != declared:
        raise SourceError(f"column {column.name} is declared with {declared} dimensions")
    dim = told or declared or _most_frequent(conn, schema, table, column)
    if not 1 <= dim <= MAX_DIM:
        raise SourceError(f"vectors of {dim} dimensions; an index takes 1 to {MAX_DIM}")
    return dim


def _most_frequent(
    conn: psycopg.Connection[Any], schema: str, table: str, column: CatalogColumn
) -> int:
    query = sql.SQL(
        "SELECT dim FROM (SELECT {measure} AS dim FROM {table} WHERE {column} IS NOT NULL "
        "LIMIT {rows}) AS sample WHERE dim > 0 GROUP BY dim ORDER BY count(*) DESC, dim LIMIT 1"
    ).format(
        measure=_measure(column),
        table=sql.Identifier(schema, table),
        column=sql.Identifier(column.name),
        rows=sql.Literal(SAMPLE_ROWS),
    )
    row = conn.execute(query).fetchone()
    if row is None:
        raise SourceError(
            f"column {column.name} declares no dimension and has no rows to learn it from; "
            "say how many dimensions its vectors have (dim)"
        )
    return int(row[0])


def _measure(column: CatalogColumn) -> sql.Composable:
    """Return the SQL expression for a row's number of components, whatever the search_path."""
    name = sql.Identifier(column.name)
    if column.type.endswith("[]"):
        return sql.SQL("pg_catalog.array_length({}, 1)").format(name)
    if column.type == "sparsevec":
        # No function returns it; the text form ends in /dimensions.
        return sql.SQL("pg_catalog.split_part({}::text, '/', 2)::int").format(name)
    function = sql.Identifier(column.type_schema, "vector_dims")
    return sql.SQL("{}({})").format(function, name)
