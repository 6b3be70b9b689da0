"""The README's tutorial, run from the README itself against a real Postgres and real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from server.demo.postgres import EmbeddedPostgres
from tests.fix_postgres import Database, free_port, fresh_database

README = Path(__file__).parents[2] / "README.md"
SECTION = "## Five minutes with your own database"
DSN_OF_README = "postgresql://you@localhost:5432/yourdb"
PORT_OF_README = "8410"
#: The first start on a machine compiles the kernels.
TIMEOUT_S = 270


def tutorial_blocks(text: str) -> list[str]:
    """Return the shell blocks of the tutorial, in order."""
    section = text.split(SECTION, 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


def script_of(blocks: list[str], dsn: str, port: int) -> str:
    """Return one script; only the database's address and the port differ from the README."""
    text = "\n".join(f"echo '=== {n}'\n{block}" for n, block in enumerate(blocks))
    assert DSN_OF_README in text
    assert f"localhost:{PORT_OF_README}" in text
    return text.replace(DSN_OF_README, dsn).replace(
        f"localhost:{PORT_OF_README}", f"localhost:{port}"
    )


def run_script(script: str, environment: dict[str, str], folder: Path) -> str:
    """Run bash in a session of its own and return its output; end all of it when it fails."""
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()
    assert process.returncode == 0, output
    return output


def environment_of(server: EmbeddedPostgres, port: int) -> dict[str, str]:
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("VECMIRROR_", "PG"))}
    path = [str(Path(sys.executable).parent), str(server.bin), ours["PATH"]]
    return {
        **ours,
        "PATH": os.pathsep.join(path),
        "VECMIRROR_SERVER__PORT": str(port),
        "VECMIRROR_SQL__PORT": str(free_port()),
        "VECMIRROR_SYNC__SERVER_URL": f"http://localhost:{port}",
    }


@pytest.fixture
def database(postgres18: EmbeddedPostgres) -> Iterator[Database]:
    with fresh_database(postgres18) as created:
        yield created


def answers(section: str) -> list[dict[str, Any]]:
    """Return the JSON objects printed one after another."""
    decoder, found, position = json.JSONDecoder(), [], 0
    while (position := section.find("{", position)) >= 0:
        value, position = decoder.raw_decode(section, position)
        found.append(value)
    return found


def test_every_command_of_the_tutorial_works(database: Database, tmp_path: Path) -> None:
    blocks, port = tutorial_blocks(README.read_text()), free_port()
    script = script_of(blocks, database.dsn, port)
    output = run_script(script, environment_of(database.server, port), tmp_path)
    parts = re.split(r"^=== \d+\n", output, flags=re.MULTILINE)[1:]
    said = dict(zip(("dsn", "table", "doctor", "attach", "sync", "search"), parts, strict=False))
    alike, filtered, by_vector = answers(said["search"])
    (after_delete,) = answers(parts[6])

    assert "index" in said["attach"]
    assert re.search(r"docs_embedding .* live .* 2,000", said["sync"])
    assert len(alike["hits"]) == len(filtered["hits"]) == len(by_vector["hits"]) == 3
    assert 42 not in [hit["key"] for hit in alike["hits"]]
    assert {hit["key"] % 3 for hit in filtered["hits"]} == {1}  # the rows with lang = 'de'
    assert by_vector["hits"][0]["key"] == 42
    assert [hit["key"] for hit in after_delete["hits"]] == [hit["key"] for hit in alike["hits"]]
    assert "(3 rows)" in parts[7]
    assert re.search(r"^ document \d*7 ", parts[7], re.MULTILINE)
    assert "0 differing" in parts[8]
    assert database.execute(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ 'docs'"
    ) == [(0,)]
    assert database.execute("SELECT count(*) FROM pg_publication") == [(0,)]
    assert database.execute("SELECT count(*) FROM pg_foreign_server") == [(0,)]
    assert database.execute("SELECT count(*) FROM docs") == [(1999,)]
