"""The foreign server, its user mappings, and the two foreign tables of an index.

Sources: Postgres documentation, F.38 postgres_fdw (options), CREATE SERVER, CREATE USER MAPPING,
CREATE FOREIGN TABLE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from psycopg import sql

from server.spec import IndexSpec

from .facts import ClientFacts, Options, PortAddress
from .names import DEFAULT_NAME, LIGHT_COLUMNS, light_name
from .statement import KEY_VARIABLE, Part, Statement, joined, options, qualified

#: Any name will do: the key alone tells who somebody is.
USER = "vecmirror"

#: Seconds after which a database that cannot reach the port says so.
CONNECT_TIMEOUT_S = "5"

_BYTEWISE = ' COLLATE "C"'

#: SQL's names of the types that a mirrored column can have. Text compares by bytes in an index.
SQL_TYPES = {
    "bool": "boolean",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "text": 'text COLLATE "C"',
    "timestamptz": "timestamp with time zone",
    "timestamp": "timestamp without time zone",
    "date": "date",
    "uuid": "uuid",
    "int2[]": "smallint[]",
    "int4[]": "integer[]",
    "int8[]": "bigint[]",
    "text[]": 'text[] COLLATE "C"',
}

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


def remote_columns(spec: IndexSpec, facts: ClientFacts) -> list[tuple[str, sql.Composable]]:
    """Return (name, type) of an index's columns as the client database declares them."""
    table = spec.table
    columns: dict[str, sql.Composable] = {}
    for column in (*table.key, *table.columns):
        columns.setdefault(column.name, sql.SQL(SQL_TYPES[column.type]))
    columns.setdefault(table.vector_column, vector_type(facts, table.dim))
    taken = frozenset(columns)
    for name, kind in LIGHT_COLUMNS.items():
        is_vector = kind == "vector"
        made = vector_type(facts, table.dim) if is_vector else _light_type(kind)
        columns[light_name(name, taken)] = made
    return list(columns.items())


def mirrored_names(spec: IndexSpec) -> frozenset[str]:
    """Return the names of an index's columns but for the light form."""
    table = spec.table
    return frozenset(
        [*(column.name for column in (*table.key, *table.columns)), table.vector_column]
    )


def vector_type(facts: ClientFacts, dim: int | None = None) -> sql.Composable:
    """Return pgvector's type; text where the client database has no pgvector."""
    if facts.vector_schema is None:
        return sql.SQL('text COLLATE "C"') if dim is not None else sql.SQL("text")
    name = qualified(facts.vector_schema, "vector")
    return name if dim is None else name + sql.SQL("({})").format(sql.Literal(dim))


def plain_type(kind: str) -> sql.SQL:
    """Return a mirrored column's type without its collation, as parameters are declared."""
    return sql.SQL(SQL_TYPES[kind].removesuffix(_BYTEWISE))


def _light_type(kind: str) -> sql.Composable:
    return sql.SQL('text COLLATE "C"' if kind == "text" else kind)


def create_foreign_table(
    spec: IndexSpec, name: str, wanted: Options, facts: ClientFacts, *, light: bool
) -> sql.Composed:
    """Return CREATE FOREIGN TABLE. The light form asks for no estimates: fewer round trips."""
    columns: list[Part] = [
        sql.SQL("\n    ") + sql.Identifier(column) + sql.SQL(" ") + kind
        for column, kind in remote_columns(spec, facts)
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
