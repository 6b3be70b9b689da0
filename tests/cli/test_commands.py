"""Each command against a running server, sidecar and Postgres: what it prints and how it ends."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

from pgsync.lsn import parse_lsn
from server.demo.processes import ChildProcess, wait_until
from tests.cli.conftest import Outcome, RunCli, Running
from tests.fix_postgres import free_port

TARGET = "public.docs.embedding"
NAME = "docs_embedding"
ATTACH = ("attach", TARGET, "--filter-columns", "title,lang", "--metric", "l2")
NOWHERE = "http://127.0.0.1:9"
SECRET = "correct-horse"


@pytest.fixture
def here(cli: RunCli, running: Running) -> RunCli:
    """Return ``cli`` with the environment of the running server."""

    def run(*arguments: str, **environment: str) -> Outcome:
        return cli(*arguments, **{**running.environment, **environment})

    return run


@pytest.fixture
def attached(here: RunCli, running: Running) -> Any:
    """Attach the table of documents; detach it afterwards."""
    assert here(*ATTACH).code == 0
    yield running
    here("detach", NAME)


@pytest.fixture
def live(attached: Running, sidecar: ChildProcess) -> Running:
    """Return a running server whose index is copied and live."""
    wait_until(lambda: attached.client.describe(NAME)["phase"] == "live", "the copy", [sidecar], 30)
    return attached


def objects_of(running: Running) -> tuple[list[object], list[object]]:
    """Return the names of publications and of our slots in the source."""
    publications = running.database.execute("SELECT pubname FROM pg_publication")
    slots = running.database.execute(
        "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
    )
    return [name for (name,) in publications], [name for (name,) in slots]


def change_unseen(running: Running, statement: str) -> None:
    """Change the table while the publication carries no updates, in one transaction."""
    publication = f"vecmirror_{NAME}"
    with psycopg.connect(running.database.dsn) as connection:
        connection.execute(f"ALTER PUBLICATION {publication} SET (publish = 'insert')".encode())
        connection.execute(statement.encode())
        connection.execute(
            f"ALTER PUBLICATION {publication}"
            " SET (publish = 'insert, update, delete, truncate')".encode()
        )


class TestAttach:
    """``vecmirror attach``."""

    def test_makes_index_and_publication_and_says_what_comes_next(
        self, here: RunCli, running: Running
    ) -> None:
        done = here(*ATTACH)
        try:
            assert done.code == 0
            assert "CREATE PUBLICATION" in done.out
            assert "16 dimensions" in done.out
            assert "vecmirror sync" in done.out
            assert objects_of(running) == ([f"vecmirror_{NAME}"], [])
            spec = running.client.describe(NAME)["spec"]
            assert spec["metric"] == "l2"
            assert [column["name"] for column in spec["table"]["columns"]] == ["title", "lang"]
        finally:
            here("detach", NAME)

    def test_a_second_time_changes_nothing(self, here: RunCli, attached: Running) -> None:
        again = here(*ATTACH)
        assert (again.code, "attached already" in again.out) == (0, True)
        assert here(*ATTACH, "--json").json["created"] is False

    def test_another_column_under_the_same_name_ends_with_1(
        self, here: RunCli, attached: Running
    ) -> None:
        done = here("attach", TARGET, "--name", NAME, "--metric", "cosine", "--json")
        assert done.code == 1
        assert f"vecmirror detach {NAME}" in done.json["error"]

    def test_json_has_the_statements_and_the_index(self, here: RunCli) -> None:
        done = here("attach", TARGET, "--name", "other", "--nlist", "7", "--json")
        try:
            assert done.code == 0
            assert done.json["created"] is True
            assert done.json["index"]["spec"]["params"]["nlist"] == 7
            assert done.json["statements"][0].startswith("CREATE PUBLICATION")
        finally:
            here("detach", "other")

    def test_a_refused_index_leaves_no_publication(self, here: RunCli, running: Running) -> None:
        done = here("attach", TARGET, "--server", NOWHERE)
        assert done.code == 4
        assert "vecmirror serve" in done.err
        refused = here("attach", TARGET, "--name", "Not A Name", "--json")
        assert refused.code == 4
        assert "index name" in refused.json["error"]
        assert objects_of(running) == ([], [])

    @pytest.mark.parametrize(
        ("target", "code", "named"),
        [
            ("public.nothing.embedding", 3, "public.nothing"),
            ("public.docs.title", 3, "title"),
            ("docs", 3, "schema.table.column"),
        ],
    )
    def test_a_column_that_cannot_be_mirrored_ends_with_3(
        self, here: RunCli, target: str, code: int, named: str
    ) -> None:
        done = here("attach", target, "--json")
        assert (done.code, named in done.json["error"]) == (code, True)

    def test_without_a_column_ends_with_2(self, here: RunCli) -> None:
        done = here("attach")
        assert (done.code, "schema.table.column" in done.err) == (2, True)


class TestDoctor:
    """``vecmirror doctor``."""

    def test_a_good_source_ends_with_0(self, here: RunCli) -> None:
        done = here("doctor", TARGET)
        assert (done.code, done.out.splitlines()[-1]) == (0, "ready to be mirrored")

    def test_names_the_sql_that_mends_and_ends_with_1(self, here: RunCli, running: Running) -> None:
        running.database.execute("CREATE TABLE keyless (v vector(3))")
        done = here("doctor", "public.keyless.v")
        assert done.code == 1
        assert "    ALTER TABLE" in done.out
        assert "1 to mend" in done.out

    def test_json(self, here: RunCli, running: Running) -> None:
        done = here("doctor", running.database.dsn, "--json")
        assert (done.code, done.json["ready"]) == (0, True)
        levels = [finding["level"] for finding in done.json["findings"]]
        assert levels == sorted(levels, key=("error", "warning", "info").index)

    def test_attach_prints_what_stands_in_the_way(self, here: RunCli, running: Running) -> None:
        running.database.execute("CREATE ROLE reader LOGIN REPLICATION")
        running.database.execute("GRANT SELECT ON docs TO reader")
        try:
            dsn = running.database.dsn.replace("postgres@", "reader@")
            done = here("attach", dsn, TARGET)
            as_json = here("attach", dsn, TARGET, "--json")
        finally:
            running.database.execute("DROP OWNED BY reader")
            running.database.execute("DROP ROLE reader")
        assert done.code == as_json.code == 1
        assert "does not own public.docs" in done.err
        assert "publication-owner" in [each["code"] for each in as_json.json["findings"]]
        assert objects_of(running) == ([], [])


class TestSource:
    """The connection string, whichever command takes it."""

    @pytest.mark.parametrize("command", ["attach", "doctor"])
    def test_password_is_never_printed(self, cli: RunCli, command: str) -> None:
        dsn = f"postgresql://someone:{SECRET}@127.0.0.1:{free_port()}/db"
        done = cli(command, dsn, TARGET)
        assert done.code == 3
        assert SECRET not in done.out + done.err

    def test_a_malformed_one_is_not_repeated(self, cli: RunCli) -> None:
        done = cli("attach", f"postgresql://u:{SECRET}@[h/db", TARGET)
        assert done.code == 2
        assert "postgresql://user@host" in done.err
        assert SECRET not in done.out + done.err

    def test_missing_ends_with_2(self, cli: RunCli) -> None:
        done = cli("attach", TARGET)
        assert (done.code, "VECMIRROR_SOURCE__DSN" in done.err) == (2, True)


class TestStatus:
    """``vecmirror status``."""

    def test_shows_indexes(self, here: RunCli, live: Running) -> None:
        done = here("status")
        assert done.code == 0
        (line,) = [line for line in done.out.splitlines() if line.startswith(NAME)]
        assert line.split()[1:4] == [TARGET, "live", "400"]

    def test_json(self, here: RunCli, live: Running) -> None:
        status = here("status", "--json").json
        assert [index["name"] for index in status["indexes"]] == [NAME]
        assert status["server"] == live.environment["VECMIRROR_SYNC__SERVER_URL"]

    def test_says_how_to_begin(self, here: RunCli) -> None:
        assert "vecmirror attach" in here("status").out

    def test_no_server_ends_with_4(self, here: RunCli) -> None:
        done = here("status", "--server", NOWHERE, "--json")
        assert (done.code, done.json["exit_code"]) == (4, 4)


class TestSearch:
    """``vecmirror search``."""

    def test_like_a_row_with_filter_and_columns(self, here: RunCli, live: Running) -> None:
        done = here(
            *("search", NAME, "--like", "42", "-k", "3", "--filter", "lang = 'de'"),
            *("--columns", "title,lang", "--json"),
        )
        hits = done.json["hits"]
        expected = live.database.execute(
            "SELECT id FROM docs WHERE lang = 'de' AND id <> 42"
            " ORDER BY embedding <-> (SELECT embedding FROM docs WHERE id = 42) LIMIT 3"
        )
        assert [hit["key"] for hit in hits] == [key for (key,) in expected]
        assert {hit["columns"]["lang"] for hit in hits} == {"de"}

    def test_a_vector_and_what_people_see(self, here: RunCli, live: Running) -> None:
        ((vector,),) = live.database.execute("SELECT embedding::text FROM docs WHERE id = 7")
        done = here("search", NAME, "--vector", str(vector), "-k", "2", "--columns", "title")
        first = done.out.splitlines()[1]
        assert re.fullmatch(r"7\s+0\.0000\s+document 7", first.strip())

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            ((), 2),
            (("--like", "1", "--vector", "[1]"), 2),
            (("--vector", "one"), 2),
            (("--like", "seven"), 2),
            (("--vector", "[1, 2]"), 4),
            (("--like", "1", "--filter", "nonsense ="), 4),
            (("--like", "99999"), 4),
        ],
    )
    def test_bad_requests(
        self, here: RunCli, live: Running, arguments: tuple[str, ...], code: int
    ) -> None:
        done = here("search", NAME, *arguments, "--json")
        assert (done.code, done.json["exit_code"]) == (code, code)
        assert len(done.json["error"]) > 20

    def test_unknown_index_ends_with_4(self, here: RunCli) -> None:
        assert here("search", "nothing", "--like", "1").code == 4


class TestVerify:
    """``vecmirror verify``."""

    def test_nothing_differs_while_rows_change(self, here: RunCli, live: Running) -> None:
        live.database.execute("UPDATE docs SET title = 'new' WHERE id % 5 = 0")
        live.database.execute("UPDATE docs SET embedding = NULL WHERE id = 13")
        done = here("verify", NAME)
        assert done.code == 0, done
        assert "399 rows compared, 0 differing" in done.out
        assert "1 rows of the table have no valid vector" in done.out

    def test_json(self, here: RunCli, live: Running) -> None:
        found = here("verify", NAME, "--json").json
        assert (found["missing"], found["extra"], found["differing"]) == (0, 0, 0)
        assert parse_lsn(found["lsn"]) > 0

    def test_a_row_the_index_has_wrong_ends_with_1(self, here: RunCli, live: Running) -> None:
        change_unseen(live, "UPDATE docs SET title = 'unseen' WHERE id = 21")
        done = here("verify", NAME, "--json")
        assert done.code == 1
        assert done.json["differing_keys"] == [21]
        assert "with other content" in here("verify", NAME).out

    def test_an_index_that_is_not_live_ends_with_1(self, here: RunCli, running: Running) -> None:
        table = here("attach", TARGET, "--name", "fed", "--json").json["index"]["spec"]["table"]
        running.client.create({"name": "unfed", "table": table})
        try:
            done = here("verify", "unfed", "--json")
            assert (done.code, "phase new" in done.json["error"]) == (1, True)
        finally:
            here("detach", "unfed")
            here("detach", "fed")


class TestDetach:
    """``vecmirror detach``."""

    def test_removes_index_slot_and_publication(self, here: RunCli, live: Running) -> None:
        assert objects_of(live) == ([f"vecmirror_{NAME}"], [f"vecmirror_{NAME}"])
        done = here("detach", NAME)
        assert done.code == 0
        assert f"slot vecmirror_{NAME}" in done.out
        assert objects_of(live) == ([], [])
        assert live.client.indexes() == []

    def test_unknown_index_ends_with_4(self, here: RunCli) -> None:
        done = here("detach", "nothing", "--json")
        assert (done.code, "nothing" in done.json["error"]) == (4, True)
