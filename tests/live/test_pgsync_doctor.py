"""Each finding of the doctor, provoked on a real server, and mended with the SQL it gives."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgsync.connections import connect
from pgsync.doctor import Finding, examine
from pgsync.slots import create_slot, drop_slot
from pgsync.walsender import ReplicationStream
from server.demo.postgres import EmbeddedPostgres
from tests.fix_postgres import MAJORS, TEST_SETTINGS, Database


def find(findings: list[Finding], code: str) -> Finding | None:
    return next((finding for finding in findings if finding.code == code), None)


def codes(findings: list[Finding], *levels: str) -> set[str]:
    return {finding.code for finding in findings if finding.level in levels}


@pytest.fixture
def docs(database: Database) -> Database:
    """Return a database with a table in order."""
    database.execute("CREATE TABLE docs (id int8 PRIMARY KEY, v vector(3), note text)")
    return database


@pytest.fixture
def role(docs: Database) -> Iterator[str]:
    """Make a role that may log in and nothing else; return its connection string."""
    name = f"role_{docs.name}"
    docs.execute(f"CREATE ROLE {name} LOGIN")
    yield make_conninfo(docs.dsn, user=name)
    docs.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def test_a_source_in_order_has_no_errors(docs: Database) -> None:
    findings = examine(docs.dsn, "public.docs.v")
    assert codes(findings, "error") == set()
    assert "pgvector" in codes(findings, "info")


def test_an_unreachable_source_is_a_finding_without_the_password() -> None:
    findings = examine("host=127.0.0.1 port=1 user=u password=hunter2 dbname=d connect_timeout=2")
    assert codes(findings, "error") == {"unreachable"}
    assert "hunter2" not in str(findings)


def test_each_right_is_asked_for_and_its_grant_mends_it(docs: Database, role: str) -> None:
    docs.execute(
        "CREATE POLICY p ON docs USING (false); ALTER TABLE docs ENABLE ROW LEVEL SECURITY"
    )
    wanted = {
        "replication-role",
        "select",
        "row-security",
        "publication-owner",
        "publication-create",
    }
    findings = examine(role, "docs.v")
    assert codes(findings, "error") == wanted
    for finding in findings:
        if finding.code in wanted:
            docs.execute(finding.sql)
    assert codes(examine(role, "docs.v"), "error") == set()


@pytest.mark.parametrize(
    ("setup", "target", "said"),
    [
        ("CREATE TABLE bad (v vector(3))", "bad.v", "ADD PRIMARY KEY"),
        ("SELECT 1", "missing.v", "no table public.missing"),
        ("SELECT 1", "docs.note", "has type text"),
        ("SELECT 1", "docs", "schema.table.column"),
    ],
)
def test_a_column_that_cannot_be_mirrored_is_a_finding(
    docs: Database, setup: str, target: str, said: str
) -> None:
    docs.execute(setup)
    finding = find(examine(docs.dsn, target), "table")
    assert finding is not None
    assert said in finding.message + finding.sql


def test_a_table_without_a_key_comes_with_the_sql_that_gives_it_one(docs: Database) -> None:
    docs.execute("CREATE TABLE keyless (id int8, v vector(3))")
    finding = find(examine(docs.dsn, "keyless.v"), "table")
    assert finding is not None
    assert "run for example" not in finding.message
    docs.execute(finding.sql)
    assert find(examine(docs.dsn, "keyless.v"), "table") is None


def test_replica_identity_nothing_is_mended_by_the_sql_given(docs: Database) -> None:
    docs.execute("ALTER TABLE docs REPLICA IDENTITY NOTHING")
    finding = find(examine(docs.dsn, "docs.v"), "table")
    assert finding is not None
    docs.execute(finding.sql)
    assert find(examine(docs.dsn, "docs.v"), "table") is None


def test_full_identity_is_worth_knowing(docs: Database) -> None:
    docs.execute("ALTER TABLE docs REPLICA IDENTITY FULL")
    finding = find(examine(docs.dsn, "docs.v"), "identity-full")
    assert finding is not None
    docs.execute(finding.sql)
    assert find(examine(docs.dsn, "docs.v"), "identity-full") is None


def test_a_publication_that_breaks_the_application_is_found(docs: Database) -> None:
    docs.execute("CREATE PUBLICATION trap FOR TABLE docs WHERE (note = 'x')")
    with pytest.raises(psycopg.errors.InvalidColumnReference):
        docs.execute("DELETE FROM docs WHERE id = 1")
    finding = find(examine(docs.dsn, "docs.v"), "application-writes")
    assert finding is not None
    assert docs.execute(finding.sql) == [("trap",)]


def test_an_inactive_slot_is_found_and_an_active_one_is_not(docs: Database) -> None:
    name = f"left_{docs.name}"
    docs.execute("CREATE PUBLICATION p FOR TABLE docs")

    def found() -> Finding | None:
        findings = [f for f in examine(docs.dsn) if f.code == "slot-inactive"]
        return next((f for f in findings if name in f.message), None)

    with create_slot(docs.dsn, name) as created:
        point = created.consistent_point
    finding = found()
    assert finding is not None
    with ReplicationStream.open(docs.dsn, name, "p", point):
        assert found() is None
    docs.execute(finding.sql)
    assert found() is None


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def poor(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """Return a server with a single slot and sender, and a small limit of log for a slot."""
    settings = {
        **TEST_SETTINGS,
        "max_replication_slots": "1",
        "max_wal_senders": "1",
        "max_slot_wal_keep_size": "1MB",
    }
    with EmbeddedPostgres(major=request.param, settings=settings) as server:
        yield server


def test_full_slots_and_senders_and_a_lost_slot_are_found(poor: EmbeddedPostgres) -> None:
    dsn = poor.dsn()
    assert not codes(examine(dsn), "error", "warning")
    with connect(dsn) as conn:
        with create_slot(dsn, "one"):
            assert {"replication-slots", "wal-senders"} <= codes(examine(dsn), "error")
        for _ in range(4):
            conn.execute("SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000000))")
            conn.execute("SELECT pg_switch_wal()")
            conn.execute("CHECKPOINT")
        finding = find(examine(dsn), "slot-lost")
        assert finding is not None
        conn.execute(finding.sql.encode())
        assert find(examine(dsn), "slot-lost") is None
        assert not drop_slot(conn, "one")


@pytest.fixture
def replica_level() -> Iterator[EmbeddedPostgres]:
    """Return a server that does not log enough for logical replication, without limits."""
    settings = {**TEST_SETTINGS, "wal_level": "replica", "max_slot_wal_keep_size": "-1"}
    with EmbeddedPostgres(major=18, settings=settings) as server:
        yield server


def test_wal_level_and_an_unlimited_slot_are_found(replica_level: EmbeddedPostgres) -> None:
    findings = examine(replica_level.dsn())
    assert "wal-level" in codes(findings, "error")
    assert "slot-keep-size" in codes(findings, "warning")
    assert [f.level for f in findings] == sorted(
        (f.level for f in findings), key=["error", "warning", "info"].index
    )


@pytest.mark.parametrize(
    ("telltale", "name", "said"),
    [
        ("rds_superuser", "Amazon RDS", "rds_replication"),
        ("cloudsqlsuperuser", "Google Cloud SQL", "REPLICATION"),
        ("supabase_admin", "Supabase", "REPLICATION"),
        ("neon_superuser", "Neon", "REPLICATION"),
    ],
)
def test_managed_services_are_known_by_their_roles(
    docs: Database, role: str, telltale: str, name: str, said: str
) -> None:
    docs.execute(f"CREATE ROLE {telltale}")
    try:
        findings = examine(role)
    finally:
        docs.execute(f"DROP ROLE {telltale}")
    provider, right = find(findings, "provider"), find(findings, "replication-role")
    assert provider is not None
    assert name in provider.message
    assert right is not None
    assert said in right.sql
