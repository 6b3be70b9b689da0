"""``status``, ``search``, ``verify`` and ``detach`` against a live index."""

from __future__ import annotations

import re

import psycopg
import pytest

from pgsync.lsn import parse_lsn
from server.demo.processes import ChildProcess, demo_environment, run_vecmirror, wait_until
from tests.cli.conftest import RunCli, Running, objects_of

TARGET = "public.docs.embedding"
NAME = "docs_embedding"
ATTACH = ("attach", TARGET, "--filter-columns", "title,lang", "--metric", "l2")


@pytest.fixture(scope="module")
def live(running: Running, sidecar: ChildProcess) -> Running:
    """Return a running server whose one index is copied and live."""
    run_vecmirror(ATTACH, demo_environment(running.environment), running.folder)
    wait_until_live(running, NAME, sidecar)
    return running


def wait_until_live(running: Running, name: str, sidecar: ChildProcess) -> None:
    def is_live() -> bool:
        return bool(running.client.describe(name)["phase"] == "live")

    wait_until(is_live, f"index {name}", [sidecar])


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
        assert "with other content: 21" in here("verify", NAME).out
        live.database.execute("UPDATE docs SET title = 'seen' WHERE id = 21")
        assert here("verify", NAME).code == 0

    def test_an_index_that_is_not_live_ends_with_1(self, here: RunCli, live: Running) -> None:
        table = live.client.describe(NAME)["spec"]["table"]
        live.client.create({"name": "unfed", "table": table})
        try:
            done = here("verify", "unfed", "--json")
            assert (done.code, "phase new" in done.json["error"]) == (1, True)
        finally:
            assert here("detach", "unfed", "--keep-source").code == 0


class TestDetach:
    """``vecmirror detach``, and an index of the same name afterwards."""

    def test_removes_index_slot_and_publication(
        self, here: RunCli, live: Running, sidecar: ChildProcess
    ) -> None:
        for _ in range(2):  # what is attached anew under the same name is mirrored again
            assert here("attach", TARGET, "--name", "again").code == 0
            wait_until_live(live, "again", sidecar)
            assert objects_of(live, "again") == (["vecmirror_again"], ["vecmirror_again"])
            done = here("detach", "again")
            assert done.code == 0
            assert "slot vecmirror_again" in done.out
            assert objects_of(live, "again") == ([], [])
        assert [index["name"] for index in live.client.indexes()] == [NAME]

    def test_keeping_the_source_leaves_the_publication(self, here: RunCli, live: Running) -> None:
        assert here("attach", TARGET, "--name", "kept").code == 0
        done = here("detach", "kept", "--keep-source", "--json")
        assert done.json["removed"] == ["index kept"]
        assert objects_of(live, "kept")[0] == ["vecmirror_kept"]
        assert here("attach", TARGET, "--name", "kept", "--json").json["statements"] == []
        assert here("detach", "kept").code == 0
