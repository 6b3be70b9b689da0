"""A live table that a server with ``device = cuda`` mirrors, on CuPy over the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.demo.postgres import EmbeddedPostgres
from tests.cuda.host.environment import environment, why_no_host
from tests.fix_mirroring import Mirrored, Processes
from tests.fix_postgres import fresh_database

ON_THE_CARD = {"VECMIRROR_SERVER__DEVICE": "cuda", "VECMIRROR_SERVER__DEVICE_REQUIRED": "true"}
ROWS = (
    "INSERT INTO items SELECT i, i % 10, (SELECT array_agg(random() - 0.5) FROM "
    "generate_series(1, 8 + 0 * i))::vector(8) FROM generate_series({0}, {1}) i"
)


@pytest.fixture
def fault_order(tmp_path: Path) -> Path:
    """Return a path; once a file is there, the card's next work breaks its context."""
    return tmp_path / "fault"


@pytest.fixture
def mirrored(
    postgres18: EmbeddedPostgres,
    tmp_path: Path,
    fault_order: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Mirrored]:
    """Return a table of 400 rows, and the index on the card that mirrors it."""
    if reason := why_no_host():
        pytest.skip(reason)
    for name, value in environment(FAKE_HIP_FAULT=str(fault_order)).items():
        monkeypatch.setenv(name, value)
    with fresh_database(postgres18) as database:
        processes = Processes(database.dsn, tmp_path, ON_THE_CARD)
        made = Mirrored(database.dsn, "card", processes)
        made.execute(
            "CREATE SCHEMA card CREATE TABLE items "
            "(id bigint PRIMARY KEY, price int, embedding vector(8))"
        )
        made.execute(ROWS.format(1, 400))
        made.attach(columns=("price",), train_from_rows=200, nlist=8, m=4)
        made.wait_live()
        yield made
        made.remove()
        processes.close()
