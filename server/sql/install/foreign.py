"""The foreign server, its user mappings, and the two foreign tables of an index.

Sources: Postgres documentation, F.38 postgres_fdw (options), CREATE SERVER, CREATE USER MAPPING,
CREATE FOREIGN TABLE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from psycopg import sql

from server.spec import IndexSpec
from server.sql.tables import TableColumn, table_of

from .facts import ClientFacts, Options, PortAddress
from .names import DEFAULT_NAME
from .statement import KEY_VARIABLE, Part, Statement, joined, options, qualified

#: Any name will do: the key alone tells who somebody is.
USER = "vecmirror"

#: Seconds after which a database that cannot reach the port says so.
CONNECT_TIMEOUT_S = "5"

#: Text compares by bytes in an index, so only columns of this collation let comparisons travel.
_BYTEWISE = ' COLLATE "C"'

_VECTORS = frozenset({"vector", "halfvec"})

_KEYWORD_ROLES = frozenset({"PUBLIC", "CURRENT_USER"})


def server_options(address: PortAddress, wanted: Options, facts: ClientFacts) -> dict[str, str]:
    """Return the options of the foreign server.

    Remote estimates let the index price each plan. ``extensions`` lets pgvector's operators travel.
    """
    values = {
        "host": address.host,
        "port": str(address.port),
        "dbname": DEFAULT_NAME,
        "sslmode": address.sslmode,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "use_remote_estimate": "true",
        "updatable": "false",
        "truncatable": "false",
        "fetch_size": str(wanted.fetch_size),
        "fdw_startup_cost": "1",
        "fdw_tuple_cost": "0.01",
    }
    if address.root_certificate is not None:
        values["sslrootcert"] = address.root_certificate
    if facts.vector_schema is not None:
        values["extensions"] = "vector"
    return values


def create_server(name: str, values: dict[str, str]) -> sql.Composed:
    """Return CREATE SERVER."""
    form = sql.SQL("CREATE SERVER IF NOT EXISTS {} FOREIGN DATA WRAPPER postgres_fdw {}")
    return form.format(sql.Identifier(name), options(values))


def create_mapping(role: str, wanted: Options) -> Statement:
    """Return what maps ``role`` to the port, with the key if there is one."""
    form = sql.SQL("CREATE USER MAPPING IF NOT EXISTS FOR {} SERVER {} OPTIONS (user {}{})")
    password = sql.SQL(", password {}")
    return _with_key(
        wanted,
        lambda key: form.format(
            role_name(role),
            sql.Identifier(wanted.server),
            sql.Literal(USER),
            sql.SQL("") if key is None else password.format(key),
        ),
    )


def alter_mapping(role: str, wanted: Options, verb: Literal["SET", "ADD"]) -> Statement:
    """Return what gives the mapping of ``role`` another key."""
    form = sql.SQL("ALTER USER MAPPING FOR {} SERVER {} OPTIONS ({} password {})")
    return _with_key(
        wanted,
        lambda key: form.format(
            role_name(role), sql.Identifier(wanted.server), sql.SQL(verb), key or sql.NULL
        ),
    )


def role_name(role: str) -> sql.Composable:
    """Return a role as SQL: one of the keywords, or a quoted name."""
    return sql.SQL(role) if role in _KEYWORD_ROLES else sql.Identifier(role)


def _with_key(
    wanted: Options, statement: Callable[[sql.Composable | None], sql.Composed]
) -> Statement:
    """Return a statement that holds the key to run, and a psql variable to show."""
    if wanted.key is None:
        return Statement.of(statement(None))
    shown = statement(KEY_VARIABLE).as_string(None)
    return Statement(statement(sql.Literal(wanted.key)), shown)


def declared_type(column: TableColumn, facts: ClientFacts) -> sql.Composable:
    """Return the type of a column as the client database declares it.

    Where that has no pgvector, vectors are text: ``[1,2,3]``.
    """
    kind = column.type.name
    if kind not in _VECTORS:
        bytewise = _BYTEWISE if kind in ("text", "_text") else ""
        return sql.SQL(column.type.spoken + bytewise)
    if facts.vector_schema is None:
        return sql.SQL(f"text{_BYTEWISE}")
    return vector_type(facts, kind) + sql.SQL("({})").format(sql.Literal(column.typmod))


def vector_type(facts: ClientFacts, kind: str = "vector") -> sql.Composable:
    """Return pgvector's type as a parameter is declared; text where there is no pgvector."""
    return sql.SQL("text") if facts.vector_schema is None else qualified(facts.vector_schema, kind)


def create_foreign_table(
    spec: IndexSpec, name: str, wanted: Options, facts: ClientFacts, *, light: bool
) -> sql.Composed:
    """Return CREATE FOREIGN TABLE. The light form asks for no estimates: fewer round trips."""
    columns: list[Part] = [
        sql.SQL("\n    {} {}").format(sql.Identifier(column.name), declared_type(column, facts))
        for column in table_of(spec).columns.values()
    ]
    values = {"schema_name": DEFAULT_NAME, "table_name": spec.name}
    if light:
        values["use_remote_estimate"] = "false"
    form = sql.SQL("CREATE FOREIGN TABLE {} ({}\n) SERVER {} {}")
    return form.format(
        qualified(wanted.schema, name),
        joined(columns, ","),
        sql.Identifier(wanted.server),
        options(values),
    )
