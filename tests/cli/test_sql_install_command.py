"""``sql-install`` and ``sql-uninstall``: idempotent, replaceable, removable, and RLS-safe."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from server.demo.postgres import EmbeddedPostgres
from tests.cli.conftest import Outcome, RunCli
from tests.fix_postgres import Database, fresh_database
from tests.fix_sql import (
    DIM,
    FILL_SQL,
    ITEMS_SQL,
    RANDOM_VECTOR,
    READ_KEY,
    SqlService,
    plan_of,
    query_vector,
    remote_sql,
)

Q = query_vector(4)

#: Everything an installation could make, as the catalog counts it.
OBJECTS = """
SELECT 'relation', c.oid::int, c.relname::text FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'vecmirror'
UNION ALL SELECT 'function', p.oid::int, p.proname::text FROM pg_proc p
    JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'vecmirror'
UNION ALL SELECT 'server', oid::int, srvname::text FROM pg_foreign_server
UNION ALL SELECT 'mapping', umid::int, usename::text FROM pg_user_mappings
UNION ALL SELECT 'schema', oid::int, nspname::text FROM pg_namespace WHERE nspname = 'vecmirror'
ORDER BY 1, 2
"""


@pytest.fixture
def other(postgres18: EmbeddedPostgres) -> Iterator[Database]:
    """Return a database with a copy of the table ``items`` and nothing installed."""
    with fresh_database(postgres18) as database:
        database.execute(ITEMS_SQL)
        database.execute(FILL_SQL % (RANDOM_VECTOR.format(DIM), 300))
        yield database


@pytest.fixture
def vm(cli: RunCli, sql_service: SqlService) -> RunCli:
    """Return ``cli`` with the settings of the shared service."""
    environment = {
        "VECMIRROR_SYNC__SERVER_URL": sql_service.url,
        "VECMIRROR_SYNC__API_KEY": READ_KEY,
        "VECMIRROR_SQL__PORT": str(sql_service.port),
        "SQL_KEY": READ_KEY,
    }

    def run(*arguments: str, **more: str) -> Outcome:
        return cli(*arguments, **{**environment, **more})

    return run


def install(vm: RunCli, database: Database, *more: str) -> Outcome:
    key = ("--password-env", "SQL_KEY")
    done = vm("sql-install", "items", "--dsn", database.dsn, "--run", *key, *more)
    assert done.code == 0, done.err
    return done


class TestInstall:
    """``vecmirror sql-install``."""

    def test_makes_everything_and_says_where_it_is(self, vm: RunCli, other: Database) -> None:
        done = install(vm, other)
        for name in ("vecmirror.items", "items_light", "vecmirror.search", "items_rows over items"):
            assert name in done.out
        assert READ_KEY not in done.out + done.err
        query = "SELECT count(*) FROM vecmirror.items_light WHERE query = %s::vector AND k = 5"
        assert other.execute(query, [Q]) == [(5,)]

    def test_a_second_time_changes_nothing(self, vm: RunCli, other: Database) -> None:
        install(vm, other)
        before = other.execute(OBJECTS)
        done = install(vm, other)
        assert "nothing was changed" in done.out
        assert install(vm, other, "--json").json == {
            **{"index": "items", "ran": True, "statements": []}
        }
        assert other.execute(OBJECTS) == before

    def test_the_printed_script_does_the_same_twice(
        self, vm: RunCli, other: Database, tmp_path: Path
    ) -> None:
        printed = vm("sql-install", "items")
        assert printed.code == 0, printed.err
        assert ":'vecmirror_key'" in printed.out
        script = tmp_path / "install.sql"
        script.write_text(printed.out)
        psql = [str(other.server.bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1"]
        for _ in range(2):
            ran = subprocess.run(
                [*psql, "-v", f"vecmirror_key={READ_KEY}", "-f", str(script), other.dsn],
                capture_output=True,
                text=True,
                check=False,
            )
            assert ran.returncode == 0, ran.stderr
        assert other.execute("SELECT count(*) FROM vecmirror.items_search(%s)", [Q]) == [(10,)]

    def test_printing_with_a_dsn_says_only_what_is_missing(
        self, vm: RunCli, other: Database
    ) -> None:
        dsn = ("--dsn", other.dsn)
        assert "CREATE FOREIGN TABLE" in vm("sql-install", "items", *dsn).out
        assert other.execute("SELECT count(*) FROM pg_foreign_server") == [(0,)]
        install(vm, other)
        shown = vm("sql-install", "items", *dsn, "--json").json["statements"]
        assert [each.split(" FOR ")[0] for each in shown] == ["ALTER USER MAPPING"]

    def test_the_key_is_printed_when_it_is_asked_for(self, vm: RunCli, other: Database) -> None:
        asked = ("sql-install", "items", "--password-env", "SQL_KEY", "--show-key")
        assert READ_KEY in vm(*asked).out
        assert READ_KEY not in vm(*asked[:-1]).out

    def test_changed_columns_replace_the_tables_and_keep_their_readers(
        self, vm: RunCli, other: Database, sql_service: SqlService
    ) -> None:
        role = sql.Identifier(f"reader_of_{other.name}")
        with other.connect() as admin:
            admin.execute(sql.SQL("CREATE ROLE {}").format(role))
            try:
                install(vm, other, "--grant", role.as_string(None).strip('"'))
                admin.execute("ALTER TABLE items ADD COLUMN colour text")
                done = install(vm, other, "--json").json["statements"]
                assert any(each.startswith("DROP VIEW") for each in done)
                admin.execute(sql.SQL("SET ROLE {}").format(role))
                admin.execute("RESET ROLE")
                found = admin.execute(
                    "SELECT has_table_privilege(%s, 'vecmirror.items_rows', 'SELECT'),"
                    " has_table_privilege(%s, 'vecmirror.items', 'SELECT')",
                    [role.as_string(None).strip('"')] * 2,
                ).fetchone()
                assert found == (True, False)
                assert "colour" in _columns(other, "items_rows")
            finally:
                admin.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))

    def test_another_key_and_another_address_are_taken_over(
        self, vm: RunCli, other: Database
    ) -> None:
        install(vm, other)
        tables = [row for row in other.execute(OBJECTS) if row[0] == "relation"]
        wrong = ("sql-install", "items", "--dsn", other.dsn, "--run", "--password-env", "WRONG")
        refused = vm(*wrong, WRONG="no such key")
        assert refused.code == 1
        assert "run the same command again" in refused.err
        assert "no such key" not in refused.err
        with pytest.raises(psycopg.Error):
            other.execute("SELECT id FROM vecmirror.items LIMIT 1")
        install(vm, other, "--host", "localhost")
        assert len(other.execute("SELECT id FROM vecmirror.items LIMIT 1")) == 1
        assert [row for row in other.execute(OBJECTS) if row[0] == "relation"] == tables

    def test_a_database_without_the_table_gets_no_view(
        self, vm: RunCli, database18: Database
    ) -> None:
        done = install(vm, database18)
        assert "items_rows" not in done.out
        assert len(database18.execute("SELECT id FROM vecmirror.items_search(%s, 3)", [Q])) == 3

    def test_without_pgvector_queries_are_text(self, vm: RunCli, other: Database) -> None:
        other.execute("DROP EXTENSION vector CASCADE")
        install(vm, other)
        query = "SELECT id FROM vecmirror.items WHERE query = %s ORDER BY distance LIMIT 4"
        assert len(other.execute(query, [Q])) == 4
        assert len(other.execute("SELECT id FROM vecmirror.items_search(%s, 4)", [Q])) == 4

    def test_a_schema_and_a_server_of_other_names(self, vm: RunCli, other: Database) -> None:
        install(vm, other, "--schema", "My Search", "--foreign-server", "vm 2")
        query = "SELECT key FROM \"My Search\".search('items', %s, 2)"
        assert len(other.execute(query, [Q])) == 2
        done = vm(
            *("sql-uninstall", "--dsn", other.dsn, "--run", "--schema", "My Search"),
            *("--foreign-server", "vm 2"),
        )
        assert done.code == 0, done.err
        assert other.execute("SELECT count(*) FROM pg_foreign_server") == [(0,)]

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (("sql-install", "nothing"), 4, "no index"),
            (("sql-install", "items", "--run", "--dsn", "host=/nowhere"), 2, "--password-env"),
            (("sql-install", "items", "--password-env", "NOT_SET"), 2, "NOT_SET"),
            (("sql-install", "items", "--sslmode", "maybe"), 2, "verify-full"),
        ],
    )
    def test_what_is_wrong_is_said(
        self, vm: RunCli, arguments: tuple[str, ...], code: int, said: str
    ) -> None:
        done = vm(*arguments)
        assert (done.code, said in done.err) == (code, True), done.err


class TestUninstall:
    """``vecmirror sql-uninstall``."""

    def test_removes_exactly_what_was_made(self, vm: RunCli, other: Database) -> None:
        before = other.execute(OBJECTS)
        other.execute("CREATE SCHEMA mine CREATE TABLE kept (id int)")
        install(vm, other)
        printed = vm("sql-uninstall", "items", "--dsn", other.dsn)
        assert printed.out.startswith("BEGIN;\nDROP VIEW")
        assert other.execute(OBJECTS) != before
        done = vm("sql-uninstall", "items", "--dsn", other.dsn, "--run")
        assert done.code == 0, done.err
        assert other.execute(OBJECTS) == before
        assert other.execute("SELECT count(*) FROM mine.kept") == [(0,)]
        again = vm("sql-uninstall", "items", "--dsn", other.dsn, "--run")
        assert (again.code, "nothing" in again.out) == (0, True)

    def test_what_others_made_in_the_schema_stays_and_is_named(
        self, vm: RunCli, other: Database
    ) -> None:
        install(vm, other)
        other.execute("CREATE VIEW vecmirror.mine AS SELECT id FROM vecmirror.items_rows")
        refused = vm("sql-uninstall", "items", "--dsn", other.dsn, "--run")
        assert refused.code == 3
        assert "vecmirror.mine depends on" in refused.err
        assert len(other.execute("SELECT id FROM vecmirror.mine LIMIT 1")) == 1


class TestRowSecurity:
    """A reader of the view sees rows that the base table's policies show, and nothing else."""

    @pytest.fixture
    def reader(self, vm: RunCli, other: Database) -> Iterator[Database]:
        """Return ``other`` seen by a role that sees one tenant and was granted the view."""
        role = f"tenant_{other.name}"
        name, password = sql.Identifier(role), sql.Literal("of the reader")
        other.execute(
            "ALTER TABLE items ENABLE ROW LEVEL SECURITY;"
            " CREATE POLICY own ON items USING (tenant = current_setting('app.tenant')::int)"
        )
        with other.connect() as admin:
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, password))
            admin.execute(sql.SQL("GRANT SELECT ON items TO {}").format(name))
            install(vm, other, "--grant", role)
            dsn = make_conninfo(other.dsn, user=role, options="-c app.tenant=3")
            yield Database(other.name, dsn, other.server)
            admin.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(name))

    ROWS = (
        "SELECT id, tenant FROM vecmirror.items_rows WHERE query = %s::vector"
        " ORDER BY distance LIMIT 10"
    )

    def test_a_tenant_gets_its_own_nearest_rows(self, reader: Database, other: Database) -> None:
        expected = other.execute(
            "SELECT id, tenant FROM items WHERE tenant = 3"
            " ORDER BY embedding <-> %s::vector LIMIT 10",
            [Q],
        )
        assert len(expected) == 10
        assert reader.execute(self.ROWS, [Q]) == expected

    def test_the_limit_is_reached_by_scanning_on(self, reader: Database) -> None:
        with reader.connect() as connection:
            plan = plan_of(connection, self.ROWS, [Q])
        assert "current_setting('app.tenant'" in plan
        assert "Function Scan" not in plan, "the row function was not inlined"
        (sent,) = remote_sql(plan)
        assert "ORDER BY distance" in sent
        assert "LIMIT" not in sent

    @pytest.mark.parametrize("table", ["items", "items_light"])
    def test_the_foreign_tables_are_closed_to_it(self, reader: Database, table: str) -> None:
        refusals = psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject
        with pytest.raises(refusals, match=r"permission denied|user mapping not found"):
            reader.execute(f"SELECT id FROM vecmirror.{table} LIMIT 1")

    def test_the_functions_do_not_connect_for_it(self, reader: Database) -> None:
        with pytest.raises(psycopg.Error):
            reader.execute("SELECT id FROM vecmirror.items_search(%s)", [Q])

    def test_no_expression_of_the_reader_meets_a_hidden_row(self, reader: Database) -> None:
        with reader.connect() as connection:
            connection.execute(
                "CREATE FUNCTION pg_temp.spy(bigint, int, text) RETURNS bool LANGUAGE plpgsql"
                " COST 0.0001 AS $$ BEGIN IF $2 <> 3 THEN RAISE EXCEPTION 'saw a hidden row';"
                " END IF; RETURN true; END $$"
            )
            query = self.ROWS.replace("ORDER", "AND pg_temp.spy(id, tenant, title) ORDER")
            assert len(connection.execute(query.encode(), [Q]).fetchall()) == 10

    def test_without_the_setting_it_sees_nothing(self, reader: Database) -> None:
        dsn = make_conninfo(reader.dsn, options="-c app.tenant=99")
        assert Database(reader.name, dsn, reader.server).execute(self.ROWS, [Q]) == []


def _columns(database: Database, relation: str) -> list[object]:
    rows = database.execute(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0",
        [f"vecmirror.{relation}"],
    )
    return [name for (name,) in rows]
