"""The view over the base table: rows of the index joined with their rows in Postgres.

Invariants:

- A reader of the view needs SELECT on the view and on the base table, and nothing else: no right
  on the foreign table, the server or a user mapping.
- The base table's policies are those of the reader, though the foreign table is read with the
  view owner's rights: a function in a view runs as the reader, and the planner inlines this one.
- Where the table has row-level security, the view shows only columns of rows that the reader may
  see. Of hidden rows no column but ``distance`` ever meets an expression of the reader's.

Sources: Postgres documentation, "Rules and Privileges" and "CREATE VIEW"; the conditions for
inlining are those of inline_set_returning_function().
"""

from __future__ import annotations

from psycopg import sql

from server.spec import IndexSpec
from server.sql.tables import table_of

from .facts import BaseTable, Options
from .names import IndexNames, light_name
from .statement import Part, joined, qualified


def create_row_function(
    spec: IndexSpec, names: IndexNames, base: BaseTable, wanted: Options
) -> sql.Composed:
    """Return the function from a key to the row of the base table, for the planner to inline."""
    form = sql.SQL(
        "CREATE FUNCTION {name}({types}) RETURNS SETOF {base}\n"
        "LANGUAGE sql STABLE ROWS 1 COST 1 AS {body}"
    )
    conditions: list[Part] = [
        sql.SQL("b.{} OPERATOR(pg_catalog.=) ").format(sql.Identifier(column.name))
        + sql.SQL(f"${number}")
        for number, column in enumerate(spec.table.key, 1)
    ]
    table = qualified(base.schema, base.table)
    query = sql.SQL("SELECT b.* FROM {} AS b WHERE {}").format(table, joined(conditions, " AND "))
    return form.format(
        name=qualified(wanted.schema, names.row),
        types=key_types(spec),
        base=table,
        body=sql.Literal(query.as_string(None)),
    )


def key_types(spec: IndexSpec) -> sql.Composed:
    """Return the types of the key columns, which tell the function from others of its name."""
    table = table_of(spec)
    return joined([sql.SQL(table.columns[name].type.spoken) for name in table.key])


def create_view(
    spec: IndexSpec, names: IndexNames, base: BaseTable, wanted: Options
) -> sql.Composed:
    """Return the view: the base table's columns, then the light form's.

    Without row-level security the vector column is the index's own, so that ORDER BY with
    pgvector's operators reaches the index.
    """
    keys: list[Part] = [sql.Identifier("f", column.name) for column in spec.table.key]
    form = sql.SQL("CREATE VIEW {view} AS SELECT {columns}\nFROM {table} AS f, {row}({keys}) AS b")
    return form.format(
        view=qualified(wanted.schema, names.view),
        columns=joined(_columns(spec, base)),
        table=qualified(wanted.schema, names.table),
        row=qualified(wanted.schema, names.row),
        keys=joined(keys),
    )


def _columns(spec: IndexSpec, base: BaseTable) -> list[Part]:
    indexed = spec.table.vector_column
    columns: list[Part] = [
        sql.Identifier("f" if name == indexed and not base.row_security else "b", name)
        for name in base.columns
    ]
    taken = frozenset([*base.columns, *_mirrored(spec)])
    for name, there in table_of(spec).light.items():
        shown = sql.Identifier(light_name(name, taken))
        columns.append(sql.SQL("{} AS {}").format(sql.Identifier("f", there), shown))
    return columns if base.columns else [sql.SQL("b.*"), *columns]


def _mirrored(spec: IndexSpec) -> list[str]:
    columns = table_of(spec).columns.values()
    return [column.name for column in columns if column.role != "light"]
