"""The shell around the pure part: look at a client database, and run statements on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from server.spec import IndexSpec

from .facts import BaseTable, ClientFacts, Existing, Options
from .names import read_tag
from .statement import Statement

Connection = psycopg.Connection[TupleRow]

_NEEDED = ("postgres_fdw", "dblink")

#: Objects with a comment of ours: kind, schema, name, arguments, comment, roles that may SELECT.
_EXISTING = """
SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'FOREIGN TABLE' END, n.nspname::text,
    c.relname::text, '', d.description,
    ARRAY(SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END
          FROM aclexplode(c.relacl) AS a
          WHERE a.privilege_type = 'SELECT' AND a.grantee <> c.relowner)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_description AS d
        ON d.objoid = c.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0
WHERE c.relkind IN ('v', 'f') AND n.nspname = %(schema)s
UNION ALL
SELECT 'FUNCTION', n.nspname::text, p.proname::text, pg_get_function_identity_arguments(p.oid),
    d.description, '{}'
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    JOIN pg_description AS d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass
WHERE n.nspname = %(schema)s
UNION ALL
SELECT 'SERVER', NULL, s.srvname::text, '', d.description, '{}'
FROM pg_foreign_server AS s
    JOIN pg_description AS d ON d.objoid = s.oid AND d.classoid = 'pg_foreign_server'::regclass
WHERE s.srvname = %(server)s
UNION ALL
SELECT 'SCHEMA', NULL, n.nspname::text, '', d.description, '{}'
FROM pg_namespace AS n
    JOIN pg_description AS d ON d.objoid = n.oid AND d.classoid = 'pg_namespace'::regclass
WHERE n.nspname = %(schema)s
"""


def look(connection: Connection, spec: IndexSpec | None, wanted: Options) -> ClientFacts:
    """Return what a database has; ``spec`` None leaves the mirrored table out."""
    extensions: dict[str, str] = dict(
        connection.execute(
            "SELECT e.extname::text, n.nspname::text FROM pg_extension AS e"
            " JOIN pg_namespace AS n ON n.oid = e.extnamespace"
        ).fetchall()
    )
    schema = _one(connection, "SELECT true FROM pg_namespace WHERE nspname = %s", wanted.schema)
    return ClientFacts(
        looked=True,
        vector_schema=extensions.get("vector"),
        dblink_schema=extensions.get("dblink") or _default_schema(connection),
        missing_extensions=tuple(name for name in _NEEDED if name not in extensions),
        base=None if spec is None else _base(connection, spec),
        schema_exists=schema is not None,
        server_options=_server_options(connection, wanted.server),
        mappings=_mappings(connection, wanted.server),
        current_user=_one(connection, "SELECT current_user::text"),
        existing=_existing(connection, wanted),
    )


def run(connection: Connection, statements: Sequence[Statement]) -> None:
    """Run statements in one transaction; psycopg's errors go to the caller."""
    with connection.transaction():
        for statement in statements:
            connection.execute(sql.Composed([statement.run]))


def _one(connection: Connection, query: str, *parameters: object) -> Any:
    row = connection.execute(query.encode(), parameters).fetchone()
    return None if row is None else row[0]


def _default_schema(connection: Connection) -> str:
    """Return where CREATE EXTENSION puts functions: the first schema of the search path."""
    found = _one(connection, "SELECT coalesce(current_schema()::text, 'public')")
    return str(found)


def _base(connection: Connection, spec: IndexSpec) -> BaseTable | None:
    """Return the mirrored table, where the database has one of that name with the key columns."""
    table = spec.table
    oid = _one(
        connection,
        "SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')",
        *(table.schema, table.table),
    )
    columns = _one(
        connection,
        "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped",
        oid,
    )
    if not columns or not {column.name for column in table.key} <= set(columns):
        return None
    secured = _one(connection, "SELECT relrowsecurity FROM pg_class WHERE oid = %s", oid)
    return BaseTable(
        schema=table.schema,
        table=table.table,
        columns=tuple(columns),
        row_security=bool(secured),
    )


def _server_options(connection: Connection, server: str) -> dict[str, str] | None:
    found = _one(
        connection,
        "SELECT coalesce(srvoptions, '{}') FROM pg_foreign_server WHERE srvname = %s",
        server,
    )
    return None if found is None else _split(found)


def _mappings(connection: Connection, server: str) -> dict[str, dict[str, str] | None]:
    rows = connection.execute(
        "SELECT CASE umuser WHEN 0 THEN 'PUBLIC' ELSE usename::text END, umoptions"
        " FROM pg_user_mappings WHERE srvname = %s",
        [server],
    ).fetchall()
    return {role: None if values is None else _split(values) for role, values in rows}


def _split(values: Sequence[str]) -> dict[str, str]:
    """Read options as the catalog has them: ``name=value``."""
    return dict(value.split("=", 1) for value in values)


def _existing(connection: Connection, wanted: Options) -> tuple[Existing, ...]:
    rows = connection.execute(
        _EXISTING.encode(), {"schema": wanted.schema, "server": wanted.server}
    ).fetchall()
    found = []
    for kind, schema, name, arguments, comment, readers in rows:
        tagged = read_tag(comment)
        if tagged is not None:
            index, digest = tagged
            found.append(
                Existing(
                    kind=kind,
                    schema=schema,
                    name=name,
                    index=index,
                    digest=digest,
                    arguments=arguments,
                    readers=tuple(readers),
                )
            )
    return tuple(found)
