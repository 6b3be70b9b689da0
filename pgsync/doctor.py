"""The doctor: what stands in the way of mirroring a database, and the SQL that mends it.

``examine`` looks at the real server and changes nothing; it asks for what would be needed rather
than guess it from names: IDENTIFY_SYSTEM over a replication connection, the catalog, the planner.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from .connections import MIN_SERVER_VERSION, connect, source_identity
from .errors import SourceError, SourceUnavailable, SyncError
from .inspection import Target, inspect_table, parse_target
from .publication import check_application_writes
from .slots import SlotState, slot_states
from .table import TableSpec

Level = Literal["error", "warning", "info"]

#: A slot this far behind is more than a pause: about half an hour of a busy primary.
LAG_WARNING_BYTES = 1 << 30


#: What our own errors say before the statement that mends them.
_MEND = re.compile("; run(?: for example)?: ")


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: ``error`` prevents mirroring, ``warning`` will hurt, ``info`` is good to know.

    ``code`` is stable, for scripts. ``sql`` mends it, empty when SQL alone does not; it may hold
    names in capitals to be filled in.
    """

    level: Level
    code: str
    message: str
    sql: str = ""


@dataclass(frozen=True, slots=True)
class _Provider:
    """A managed service: how logical decoding and the replication right are had there."""

    name: str
    wal_level: str
    replication: str
    pooler: str = "connect to the database itself, not through a pooler"


_PROVIDERS = {
    "rds": _Provider(
        "Amazon RDS or Aurora",
        "set rds.logical_replication = 1 in the parameter group and reboot",
        "GRANT rds_replication TO {}",
        "connect to the instance endpoint, not through RDS Proxy",
    ),
    "cloudsql": _Provider(
        "Google Cloud SQL",
        "set the flag cloudsql.logical_decoding = on, which restarts the instance",
        "ALTER ROLE {} REPLICATION",
    ),
    "supabase": _Provider(
        "Supabase",
        "logical replication is on by default; ask support if it is not",
        "ALTER ROLE {} REPLICATION",
        "use the direct connection string (port 5432, IPv6 or the IPv4 add-on), not the pooler",
    ),
    "neon": _Provider(
        "Neon",
        "enable logical replication in the project settings; it cannot be disabled again",
        "ALTER ROLE {} REPLICATION",
        "use the host name without -pooler",
    ),
}
_SELF_HOSTED = _Provider(
    "",
    "restart Postgres afterwards",
    "ALTER ROLE {} REPLICATION",
)

_PROVIDER_SQL = """
SELECT CASE
    WHEN to_regrole('rds_superuser') IS NOT NULL THEN 'rds'
    WHEN to_regrole('cloudsqlsuperuser') IS NOT NULL THEN 'cloudsql'
    WHEN to_regrole('supabase_admin') IS NOT NULL THEN 'supabase'
    WHEN to_regrole('neon_superuser') IS NOT NULL THEN 'neon'
    ELSE '' END
"""

_SERVER_SQL = """
SELECT current_setting('wal_level'), current_setting('effective_wal_level', true),
       current_setting('max_replication_slots')::int,
       (SELECT count(*) FROM pg_catalog.pg_replication_slots),
       current_setting('max_wal_senders')::int,
       (SELECT count(*) FROM pg_catalog.pg_stat_replication),
       (SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'),
       pg_is_in_recovery(), current_user,
       (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'vector')
"""

_ROLE_SQL = """
SELECT r.rolreplication OR r.rolsuper OR coalesce(
    (SELECT pg_has_role(current_user, g.oid, 'MEMBER')
     FROM pg_catalog.pg_roles g WHERE g.rolname = 'rds_replication'), false)
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
"""

_RIGHTS_SQL = """
SELECT has_table_privilege(c.oid, 'SELECT') OR (
           SELECT bool_and(has_column_privilege(c.oid, a.attnum, 'SELECT'))
           FROM pg_catalog.pg_attribute a
           WHERE a.attrelid = c.oid AND a.attname = ANY (%(columns)s) AND NOT a.attisdropped),
       row_security_active(c.oid), pg_has_role(c.relowner, 'USAGE'),
       has_database_privilege(current_database(), 'CREATE'),
       pg_get_userbyid(c.relowner), c.relreplident
FROM pg_catalog.pg_class c WHERE c.oid = %(oid)s
"""


_PUBLICATIONS_OF = sql.SQL(
    "SELECT pubname FROM pg_publication_tables WHERE schemaname = {} AND tablename = {}"
)


@dataclass(frozen=True, slots=True)
class _Server:
    wal_level: str
    effective_wal_level: str | None
    max_slots: int
    used_slots: int
    max_senders: int
    used_senders: int
    keep_size_mb: int | None
    in_recovery: bool
    user: str
    pgvector: str | None


def examine(dsn: str, target: str | Target | None = None) -> list[Finding]:
    """Return what is wrong with a source, the worst first.

    ``target`` is the column to be mirrored (``schema.table.column``); without it only the server
    is examined. Never raises for what it finds, an unreachable source included.
    """
    try:
        with contextlib.closing(connect(dsn)) as conn:
            findings = list(_examine(conn, dsn, target))
    except SyncError as error:
        findings = [_connection_finding(error)]
    except psycopg.Error as error:
        reason = error.diag.message_primary or type(error).__name__
        findings = [Finding("error", "query-failed", f"the source refused a question: {reason}")]
    order: dict[Level, int] = {"error": 0, "warning": 1, "info": 2}
    return sorted(findings, key=lambda finding: order[finding.level])


def _examine(
    conn: psycopg.Connection[TupleRow], dsn: str, target: str | Target | None
) -> Iterator[Finding]:
    provider = _provider(conn)
    row: Any = conn.execute(_SERVER_SQL).fetchone()
    server = _Server(*row)
    if provider.name:
        yield Finding("info", "provider", f"this looks like {provider.name}")
    yield from _settings(server, provider)
    yield from _replication(conn, dsn, server, provider)
    yield from _slots(slot_states(conn))
    yield _pgvector(server)
    if target is not None:
        yield from _table(conn, server, target)


def _connection_finding(error: SyncError) -> Finding:
    unavailable = isinstance(error, SourceUnavailable)
    code = "unreachable" if unavailable else "server-version"
    oldest = MIN_SERVER_VERSION // 10_000
    mend = "check host, port, database, user and pg_hba.conf" if unavailable else f"use {oldest}+"
    return Finding("error", code, f"{error}; {mend}")


def _provider(conn: psycopg.Connection[TupleRow]) -> _Provider:
    row = conn.execute(_PROVIDER_SQL).fetchone()
    return _PROVIDERS.get(str(row[0]) if row else "", _SELF_HOSTED)


def _settings(server: _Server, provider: _Provider) -> Iterator[Finding]:
    level = server.effective_wal_level or server.wal_level
    # A server with effective_wal_level raises it by itself when the first logical slot is made.
    raises_itself = server.effective_wal_level is not None and server.wal_level == "replica"
    if level != "logical" and not raises_itself:
        yield Finding(
            "error",
            "wal-level",
            f"wal_level is {level}, logical replication needs logical: {provider.wal_level}",
            "" if provider.name else "ALTER SYSTEM SET wal_level = 'logical'",
        )
    if server.used_slots >= server.max_slots:
        yield _full("replication-slots", "max_replication_slots", server.max_slots)
    if server.used_senders >= server.max_senders:
        yield _full("wal-senders", "max_wal_senders", server.max_senders)
    if server.keep_size_mb == -1:
        yield Finding(
            "warning",
            "slot-keep-size",
            "max_slot_wal_keep_size is -1: while the sidecar is away its slot holds log until the "
            "primary's disk is full; with a limit the slot is given up and the table copied again",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf()",
        )
    if server.in_recovery:
        yield Finding(
            "error", "standby", "this is a standby: publications are made on the primary; use it"
        )


def _full(code: str, setting: str, limit: int) -> Finding:
    return Finding(
        "error",
        code,
        f"all {limit} of {setting} are in use; drop what is not needed, or raise it and restart",
        f"ALTER SYSTEM SET {setting} = {limit + 10}",
    )


def _replication(
    conn: psycopg.Connection[TupleRow], dsn: str, server: _Server, provider: _Provider
) -> Iterator[Finding]:
    """Check the right to replicate, then make a replication connection for real."""
    row = conn.execute(_ROLE_SQL).fetchone()
    if row is None or not row[0]:
        grant = provider.replication.format("{}")
        yield Finding(
            "error",
            "replication-role",
            f"role {server.user} may not replicate; a superuser or administrator can allow it",
            sql.SQL(grant).format(sql.Identifier(server.user)).as_string(conn),
        )
        return
    if server.used_senders >= server.max_senders:
        return
    try:
        identity = source_identity(dsn)
    except SourceError as error:
        yield Finding(
            "error",
            "replication-connection",
            f"no replication connection: {error}. A pooler cannot carry one: {provider.pooler}; "
            "and pg_hba.conf must allow this role to reach the database itself",
        )
        return
    if identity.database != conn.info.dbname:
        yield Finding(
            "error", "pooler", f"a pooler answers for another database: {provider.pooler}"
        )


def _slots(states: list[SlotState]) -> Iterator[Finding]:
    for state in states:
        drop = sql.SQL("SELECT pg_drop_replication_slot({})").format(sql.Literal(state.name))
        mend = drop.as_string(None)
        if state.lost:
            reason = state.invalidation_reason or "its log is gone"
            yield Finding("warning", "slot-lost", f"slot {state.name} is lost: {reason}", mend)
        elif state.active_pid is None:
            held = state.lag_bytes or 0
            yield Finding(
                "warning",
                "slot-inactive",
                f"nobody reads slot {state.name}, which holds {held:,} bytes of log; start its "
                "reader, or drop it if it has none",
                mend,
            )
        elif (state.lag_bytes or 0) > LAG_WARNING_BYTES:
            yield Finding(
                "warning", "slot-lag", f"slot {state.name} is {state.lag_bytes:,} bytes behind"
            )


def _pgvector(server: _Server) -> Finding:
    if server.pgvector is None:
        message = "pgvector is not installed here: float4[] and float8[] columns can be mirrored"
        return Finding("info", "pgvector", message, "CREATE EXTENSION vector")
    return Finding("info", "pgvector", f"pgvector {server.pgvector}")


def _table(
    conn: psycopg.Connection[TupleRow], server: _Server, target: str | Target
) -> Iterator[Finding]:
    try:
        column = parse_target(target) if isinstance(target, str) else target
        table = inspect_table(conn, *column)
    except SourceError as error:
        message, *mend = _MEND.split(str(error), maxsplit=1)
        yield Finding("error", "table", message, "".join(mend))
        return
    columns = [*(column.name for column in table.key), table.vector_column]
    row: Any = conn.execute(_RIGHTS_SQL, {"oid": table.relation_id, "columns": columns}).fetchone()
    may_select, hidden_rows, owner_rights, may_create, owner, identity = row
    yield from _reading(conn, server, table, may_select, hidden_rows)
    if not owner_rights:
        yield _right(
            conn,
            "publication-owner",
            f"role {server.user} does not own {table.qualified_name}, and only its owner can "
            f"publish it: attach as {owner}",
            "GRANT {} TO {}",
            (sql.Identifier(owner), sql.Identifier(server.user)),
        )
    if not may_create:
        yield _right(
            conn,
            "publication-create",
            f"role {server.user} may not create publications in this database",
            "GRANT CREATE ON DATABASE {} TO {}",
            (sql.Identifier(conn.info.dbname), sql.Identifier(server.user)),
        )
    if identity == "f":
        yield Finding(
            "info",
            "identity-full",
            f"{table.qualified_name} has REPLICA IDENTITY FULL: every UPDATE and DELETE logs the "
            "whole old row, vector included. Mirroring needs that for row filters only",
            _on_table(conn, "ALTER TABLE {} REPLICA IDENTITY DEFAULT", table),
        )
    yield from _writes(conn, table)


def _reading(
    conn: psycopg.Connection[TupleRow],
    server: _Server,
    table: TableSpec,
    may_select: bool,
    hidden_rows: bool,
) -> Iterator[Finding]:
    user = sql.Identifier(server.user)
    target = sql.Identifier(table.schema, table.table)
    if not may_select:
        message = f"role {server.user} may not read {table.qualified_name}, so it cannot copy it"
        yield _right(conn, "select", message, "GRANT SELECT ON {} TO {}", (target, user))
    if hidden_rows:
        message = (
            f"row security hides rows of {table.qualified_name} from role {server.user}; a copy "
            "would miss them, so it is refused"
        )
        yield _right(conn, "row-security", message, "ALTER ROLE {} BYPASSRLS", (user,))


def _writes(conn: psycopg.Connection[TupleRow], table: TableSpec) -> Iterator[Finding]:
    """Check what publications already do to the application's own statements."""
    try:
        check_application_writes(conn, table)
    except SourceError:
        yield Finding(
            "error",
            "application-writes",
            f"a publication makes UPDATE or DELETE on {table.qualified_name} fail now: its row "
            "filter or column list does not fit the replica identity",
            _PUBLICATIONS_OF.format(sql.Literal(table.schema), sql.Literal(table.table)).as_string(
                conn
            ),
        )


def _right(
    conn: psycopg.Connection[TupleRow],
    code: str,
    message: str,
    statement: str,
    names: tuple[sql.Composable, ...],
) -> Finding:
    return Finding("error", code, message, sql.SQL(statement).format(*names).as_string(conn))


def _on_table(conn: psycopg.Connection[TupleRow], statement: str, table: TableSpec) -> str:
    target = sql.Identifier(table.schema, table.table)
    return sql.SQL(statement).format(target).as_string(conn)
