"""``attach``, ``doctor`` and ``detach`` against a running server and a real Postgres."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.conftest import RunCli, Running, objects_of
from tests.fix_postgres import free_port

TARGET = "public.docs.embedding"
NAME = "docs_embedding"
ATTACH = ("attach", TARGET, "--filter-columns", "title,lang", "--metric", "l2")
NOWHERE = "http://127.0.0.1:9"
SECRET = "correct-horse"


@pytest.fixture
def attached(here: RunCli, running: Running) -> Iterator[Running]:
    """Attach the table of documents; detach it afterwards."""
    assert here(*ATTACH).code == 0
    yield running
    here("detach", NAME)


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
            assert spec["database"] == running.database.name
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
            ("public.absent.embedding", 3, "public.absent"),
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
        running.database.execute("CREATE TABLE nothing (id int PRIMARY KEY, v vector(3))")
        running.database.execute("ALTER TABLE nothing REPLICA IDENTITY NOTHING")
        done = here("doctor", "public.nothing.v")
        assert done.code == 1
        assert '    ALTER TABLE "public"."nothing" REPLICA IDENTITY DEFAULT;' in done.out
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


class TestWithoutAnIndex:
    """What commands say before anything is attached."""

    def test_status_says_how_to_begin(self, here: RunCli) -> None:
        assert "vecmirror attach" in here("status").out

    def test_no_server_ends_with_4(self, here: RunCli) -> None:
        done = here("status", "--server", NOWHERE, "--json")
        assert (done.code, done.json["exit_code"]) == (4, 4)

    @pytest.mark.parametrize("command", [("search", "none", "--like", "1"), ("verify", "none")])
    def test_unknown_index_ends_with_4(self, here: RunCli, command: tuple[str, ...]) -> None:
        done = here(*command, "--json")
        assert (done.code, "'none'" in done.json["error"]) == (4, True)

    def test_detaching_an_unknown_index_ends_with_4(self, here: RunCli) -> None:
        done = here("detach", "none", "--json")
        assert (done.code, "'none'" in done.json["error"]) == (4, True)
