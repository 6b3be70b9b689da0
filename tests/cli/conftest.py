"""The command line against real processes: a server, a sidecar and a table of 400 rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from server.cli import main
from server.client import Client
from server.demo.postgres import EmbeddedPostgres
from server.demo.processes import ChildProcess, demo_environment, wait_until
from tests.fix_postgres import Database, free_port, fresh_database

DOCS_SQL = """
CREATE TABLE docs (id bigint PRIMARY KEY, title text, lang text, embedding vector(16));
INSERT INTO docs SELECT i, 'document ' || i, (ARRAY['en', 'de', NULL])[1 + i % 3],
    (SELECT array_agg(random() - 0.5) FROM generate_series(1, 16) WHERE i > 0)::vector
FROM generate_series(1, 400) AS i
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        value: dict[str, Any] = json.loads(self.out)
        return value


RunCli = Callable[..., Outcome]


@dataclass(frozen=True, slots=True)
class Running:
    """A running index server and its source, with the environment commands need to find them."""

    database: Database
    client: Client
    environment: dict[str, str]
    folder: Path


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> RunCli:
    """Return a function that runs ``vecmirror`` in this process, with settings of its own only."""
    config = tmp_path / "empty.toml"
    config.touch()

    def run(*arguments: str, **environment: str) -> Outcome:
        with monkeypatch.context() as patched:
            for name, value in {"VECMIRROR_CONFIG": str(config), **environment}.items():
                patched.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main(arguments)
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def running(
    postgres18: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Return a server with a source; nothing is attached yet."""
    folder, url = tmp_path_factory.mktemp("vecmirror"), f"http://127.0.0.1:{free_port()}"
    with fresh_database(postgres18) as database:
        database.execute(DOCS_SQL)
        config = folder / "vecmirror.toml"
        config.touch()
        environment = {
            "VECMIRROR_CONFIG": str(config),
            "VECMIRROR_SERVER__PORT": url.rpartition(":")[2],
            "VECMIRROR_SERVER__DATA_DIR": str(folder / "index"),
            "VECMIRROR_SOURCE__DSN": database.dsn,
            "VECMIRROR_SYNC__SERVER_URL": url,
        }
        process = ChildProcess("server", ["serve"], demo_environment(environment), folder)
        with Client(url) as client, process:
            wait_until(client.alive, "the server", [process])
            yield Running(database, client, environment, folder)


@pytest.fixture(scope="module")
def sidecar(running: Running) -> Iterator[ChildProcess]:
    """Return a running sidecar that mirrors whatever is attached."""
    with ChildProcess(
        "sidecar", ["sync"], demo_environment(running.environment), running.folder
    ) as p:
        yield p


@pytest.fixture
def here(cli: RunCli, running: Running) -> RunCli:
    """Return ``cli`` with the environment of the running server."""

    def run(*arguments: str, **environment: str) -> Outcome:
        return cli(*arguments, **{**running.environment, **environment})

    return run


def objects_of(running: Running, index: str = "") -> tuple[list[object], list[object]]:
    """Return the names of publications and of slots in the source; only those of ``index``."""
    publications = running.database.execute(
        "SELECT pubname FROM pg_publication WHERE pubname ~ %s", [index]
    )
    slots = running.database.execute(
        "SELECT slot_name FROM pg_replication_slots"
        " WHERE database = current_database() AND slot_name ~ %s",
        [index],
    )
    return [name for (name,) in publications], [name for (name,) in slots]
