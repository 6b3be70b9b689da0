"""The publication of one mirrored table: plan, create, check and drop it.

Invariants:

- A publication made here never makes the application's own UPDATE or DELETE fail. Postgres refuses
  those (42P10, 55000) when a column list misses the replica identity, when there is any column
  list under REPLICA IDENTITY FULL, or when a row filter reads other columns. Besides following
  these rules, creation asks Postgres to plan both statements before it commits.
- A row filter never brings rows without their vector: unless the vector column cannot be TOASTed,
  it needs REPLICA IDENTITY FULL, for a row that starts to match is sent as an INSERT in which an
  unchanged TOASTed vector is left out.

https://www.postgresql.org/docs/current/logical-replication-publication.html
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import errors, sql
from psycopg.rows import TupleRow, class_row

from .connections import translated
from .errors import SourceError
from .table import TableSpec

#: Column lists and row filters exist from here on.
LISTS_SINCE = 15_00_00

#: Publishing locks the table against other DDL only, yet must not queue behind it for ever.
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '10s'"

_TABLE_SQL = """
SELECT c.relkind AS kind, c.relreplident AS identity, a.attstorage AS storage,
       EXISTS (SELECT FROM pg_catalog.pg_attribute g WHERE g.attrelid = c.oid
               AND g.attgenerated <> '' AND NOT g.attisdropped
               AND g.attname = ANY (%(columns)s)) AS generated
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = %(vector)s
WHERE c.oid = %(oid)s AND NOT a.attisdropped
"""

# to_jsonb leaves out what a version does not have: attnames and rowfilter are new in 15.
_STATE_SQL = """
SELECT p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AS all_operations,
       p.pubviaroot AS via_root, t.oid IS NOT NULL AS has_table,
       to_jsonb(t) ->> 'rowfilter' AS row_filter,
       ARRAY(SELECT jsonb_array_elements_text(coalesce(to_jsonb(t) -> 'attnames', '[]'))) AS columns
FROM pg_catalog.pg_publication p
LEFT JOIN (
    SELECT pt.*, c.oid
    FROM pg_catalog.pg_publication_tables pt
    JOIN pg_catalog.pg_namespace n ON n.nspname = pt.schemaname
    JOIN pg_catalog.pg_class c ON c.relname = pt.tablename AND c.relnamespace = n.oid
) t ON t.pubname = p.pubname AND t.oid = %(oid)s
WHERE p.pubname = %(name)s
"""


@dataclass(frozen=True, slots=True)
class _PublishedTable:
    kind: str
    identity: str
    storage: str
    generated: bool


@dataclass(frozen=True, slots=True)
class PublicationState:
    """A publication as one of its tables is concerned.

    ``columns`` are the published ones (empty before Postgres 15: all), ``row_filter`` its WHERE
    expression as Postgres prints it.
    """

    all_operations: bool
    via_root: bool
    has_table: bool
    row_filter: str | None
    columns: list[str]


def mirrored_columns(table: TableSpec) -> tuple[str, ...]:
    """Return the names of key, vector and filter columns, each once."""
    names = [c.name for c in table.key] + [table.vector_column] + [c.name for c in table.columns]
    return tuple(dict.fromkeys(names))


def create_publication(
    conn: psycopg.Connection[TupleRow],
    name: str,
    table: TableSpec,
    *,
    column_list: bool = True,
    row_filter: str | None = None,
) -> str:
    """Create a publication for exactly this table; return the statement. Raises SourceError.

    ``column_list`` sends only the mirrored columns where that is safe: from Postgres 15 on, and
    not under REPLICA IDENTITY FULL. ``row_filter`` is an SQL expression over the table's columns,
    written by the operator. ``conn`` must be in autocommit mode.
    """
    with translated(f"create publication {name}"), conn.transaction():
        conn.execute(_LOCK_TIMEOUT)
        described = _describe(conn, table)
        version = conn.info.server_version
        _check_row_filter(version, described, table, row_filter)
        listed = column_list and version >= LISTS_SINCE and described.identity != "f"
        if described.generated and not listed:
            raise SourceError("a generated column needs a column list to be published")
        statement = _statement(name, table, described.kind == "p", listed, row_filter)
        conn.execute(statement)
        check_application_writes(conn, table)
    return statement.as_string(conn)


def publication_state(
    conn: psycopg.Connection[TupleRow], name: str, relation_id: int
) -> PublicationState | None:
    """Return how a publication carries a table, None when there is no such publication."""
    rows = class_row(PublicationState)
    with translated(f"read publication {name}"), conn.cursor(row_factory=rows) as cursor:
        cursor.execute(_STATE_SQL, {"name": name, "oid": relation_id})
        return cursor.fetchone()


def check_publication(
    conn: psycopg.Connection[TupleRow], name: str, table: TableSpec
) -> PublicationState:
    """Return the state of a publication that carries all that is mirrored; raise SourceError."""
    state = publication_state(conn, name, table.relation_id)
    if state is None:
        statement = _statement(name, table, False, False, None).as_string(conn)
        raise SourceError(f"publication {name} does not exist; run: {statement}")
    if not state.has_table:
        raise SourceError(
            f"publication {name} no longer carries {table.qualified_name}, so changes are not "
            f"sent; run: {_alter(name, table)}"
        )
    if not state.all_operations:
        raise SourceError(
            f"publication {name} leaves out some operations; run: "
            + _render(
                "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate')", name
            )
        )
    missing = set(mirrored_columns(table)) - set(state.columns)
    if state.columns and missing:
        raise SourceError(
            f"publication {name} does not carry the columns {', '.join(sorted(missing))}; "
            "add them to its column list with ALTER PUBLICATION ... SET TABLE"
        )
    return state


def drop_publication(conn: psycopg.Connection[TupleRow], name: str) -> None:
    """Drop a publication if it exists; raise SourceError without the right to."""
    with translated(f"drop publication {name}"):
        conn.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))


def check_application_writes(conn: psycopg.Connection[TupleRow], table: TableSpec) -> None:
    """Raise SourceError if Postgres would refuse UPDATE or DELETE on the table as published.

    Starting the executor is what makes the check, so EXPLAIN is enough and no row is touched.
    """
    target = sql.Identifier(table.schema, table.table)
    column = sql.Identifier(table.key[0].name)
    for statement in (
        sql.SQL("EXPLAIN UPDATE {} SET {} = {}").format(target, column, column),
        sql.SQL("EXPLAIN DELETE FROM {}").format(target),
    ):
        try:
            with conn.transaction():
                conn.execute(statement)
        except (errors.InvalidColumnReference, errors.ObjectNotInPrerequisiteState) as error:
            raise SourceError(
                f"publishing {table.qualified_name} like this would make the application's UPDATE "
                "and DELETE fail: its row filter or column list does not fit the replica identity"
            ) from error
        except errors.InsufficientPrivilege:
            return  # A role without these rights cannot ask; the rules above still hold.


def _describe(conn: psycopg.Connection[TupleRow], table: TableSpec) -> _PublishedTable:
    columns = list(mirrored_columns(table))
    asked = {"oid": table.relation_id, "vector": table.vector_column, "columns": columns}
    with conn.cursor(row_factory=class_row(_PublishedTable)) as cursor:
        found = cursor.execute(_TABLE_SQL, asked).fetchone()
    if found is None:
        raise SourceError(f"{table.qualified_name} has no column {table.vector_column} any more")
    return found


def _check_row_filter(
    version: int, described: _PublishedTable, table: TableSpec, row_filter: str | None
) -> None:
    if row_filter is None:
        return
    if version < LISTS_SINCE:
        raise SourceError("row filters need Postgres 15 or newer")
    if described.identity != "f" and described.storage != "p":
        raise SourceError(
            f"a row filter on {table.qualified_name} would bring rows without their vector: one "
            "that starts to match is sent without its unchanged TOASTed values; run: "
            + _render("ALTER TABLE {} REPLICA IDENTITY FULL", table.schema, table.table)
            + " (this makes UPDATE and DELETE write more log)"
        )


def _statement(
    name: str, table: TableSpec, partitioned: bool, listed: bool, row_filter: str | None
) -> sql.Composed:
    columns = sql.SQL(", ").join(map(sql.Identifier, mirrored_columns(table)))
    # The row filter is an expression by nature; it is the operator's own SQL, run as the operator.
    where = sql.SQL(" WHERE ({})").format(sql.SQL(row_filter)) if row_filter else sql.SQL("")
    return sql.SQL("CREATE PUBLICATION {} FOR TABLE {}{}{}{}{}").format(
        sql.Identifier(name),
        sql.SQL("" if partitioned else "ONLY "),
        sql.Identifier(table.schema, table.table),
        sql.SQL(" ({})").format(columns) if listed else sql.SQL(""),
        where,
        sql.SQL(" WITH (publish_via_partition_root = true)" if partitioned else ""),
    )


def _alter(name: str, table: TableSpec) -> str:
    statement = sql.SQL("ALTER PUBLICATION {} ADD TABLE {}")
    return statement.format(
        sql.Identifier(name), sql.Identifier(table.schema, table.table)
    ).as_string(None)


def _render(statement: str, *identifier: str) -> str:
    return sql.SQL(statement).format(sql.Identifier(*identifier)).as_string(None)
