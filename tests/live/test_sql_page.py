"""docs/sql.md: every block runs, in order, and gives what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from server.demo.postgres import EmbeddedPostgres
from tests.fix_postgres import fresh_database
from tests.fix_sql import READ_KEY, SqlService

PAGE = Path(__file__).parents[2] / "docs" / "sql.md"
PORT_OF_PAGE = "port=8411"
SHELL_TIMEOUT_S = 60

Block = tuple[str, str]


def blocks_of(text: str) -> list[Block]:
    """Return (language, content) of the fenced blocks that can be run, in order."""
    return re.findall(r"^```(sql|sh)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def statements_of(block: str) -> list[Block]:
    """Return each statement of a SQL block and what the comment behind it says."""
    parts = re.split(r";\n(?:-- ((?:\d+ rows?|error \w{5})\n?))?", block)
    pairs = zip(parts[0::2], [*parts[1::2], None], strict=True)
    return [(sql, (said or "").strip()) for sql, said in pairs if sql.strip()]


def outcome(connection: psycopg.Connection, statement: str) -> str:
    """Run a statement and say what came of it as the page does."""
    try:
        cursor = connection.execute(statement.encode())
    except psycopg.Error as error:
        return f"error {error.sqlstate}"
    if cursor.description is None:
        return ""
    count = len(cursor.fetchall())
    return f"{count} row" if count == 1 else f"{count} rows"


class Reader:
    """Somebody who follows the page: one SQL session, and a shell beside it."""

    def __init__(self, service: SqlService, connection: psycopg.Connection) -> None:
        self._service, self._connection = service, connection

    def sql(self, block: str) -> None:
        """Run the statements of a block; each must end as its comment says."""
        for statement, said in statements_of(block):
            came = outcome(self._connection, statement)
            assert came == said, f"{statement}\n-- says {said or 'nothing'}, gives {came}"

    def sh(self, block: str) -> str:
        """Run a block in a shell; return its output."""
        service = self._service
        tools = [str(Path(sys.executable).parent), str(service.postgres.bin), os.environ["PATH"]]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.replace(PORT_OF_PAGE, f"port={service.port}")],
            env={**service.environment, "PATH": os.pathsep.join(tools), "SQL_KEY": READ_KEY},
            cwd=service.folder,
            timeout=SHELL_TIMEOUT_S,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        assert READ_KEY not in done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def service(postgres18: EmbeddedPostgres, tmp_path: Path) -> Iterator[SqlService]:
    """Return server and sidecar of an empty database."""
    with fresh_database(postgres18) as database:
        running = SqlService(database.dsn, tmp_path, postgres18)
        yield running
        running.close()
        with database.connect() as connection:
            connection.execute("DROP OWNED BY tenants")
            connection.execute("DROP ROLE tenants")


def test_everything_on_the_page_runs_as_it_says(service: SqlService) -> None:
    blocks = blocks_of(PAGE.read_text())
    assert {language for language, _ in blocks} == {"sql", "sh"}
    said = [said for kind, block in blocks if kind == "sql" for _, said in statements_of(block)]
    assert len([each for each in said if each.endswith("s")]) > 20, "queries say what they give"
    with psycopg.connect(service.dsn, autocommit=True) as connection:
        reader = Reader(service, connection)
        for language, block in blocks:
            reader.sql(block) if language == "sql" else reader.sh(block)
        left = connection.execute("SELECT count(*) FROM pg_foreign_server").fetchone()
    assert left == (0,)


def test_every_internal_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target
