"""``vecmirror serve`` with device = cuda, on CuPy over the CPU: HTTP and live replication."""

from __future__ import annotations

import subprocess
import sys

import httpx
import numpy as np
import pytest

from tests.brute_force import nearest
from tests.cuda.host.conftest import ROWS
from tests.cuda.host.environment import HERE, environment, why_no_host
from tests.fix_mirroring import Mirrored

#: The longest part takes a third of it on two cores that nobody else uses.
TIMEOUT_S = 1800
DIM = 8


def on_the_card(*arguments: str) -> None:
    """Run tests that others have written, in a process whose best backend is the card."""
    if reason := why_no_host():
        pytest.skip(reason)
    plugin = ["-p", "tests.cuda.host.on_card", "-p", "no:cacheprovider", "-q", "--tb=short"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, f"--timeout={TIMEOUT_S}", *arguments],
        env=environment(),
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}"


@pytest.mark.timeout(TIMEOUT_S)
def test_http_searches_answer_as_on_the_cpu() -> None:
    on_the_card("tests/api/test_searching.py", "tests/api/test_consistency.py")


@pytest.mark.timeout(TIMEOUT_S)
def test_changes_arrive_as_on_the_cpu() -> None:
    some = "insert_update or toasted or vector_columns_of_every_type"
    on_the_card("tests/live/test_mirroring.py", "-k", f"not pg16 and ({some})")


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize(
    "tests", ["tests/api", "tests/live/test_mirroring.py", "tests/live/test_restarts.py"]
)
def test_the_server_passes_the_same_tests(tests: str) -> None:
    on_the_card(tests, "-k", "not pg16")


@pytest.mark.timeout(TIMEOUT_S)
def test_an_index_on_the_card_follows_its_table(mirrored: Mirrored) -> None:
    mirrored.wait_until(lambda description: bool(description["trained"]))
    assert mirrored.describe()["backend"] == "cuda"
    mirrored.assert_equal()
    mirrored.execute(ROWS.format(401, 460))
    mirrored.execute("UPDATE items SET embedding = embedding * '[2,2,2,2,2,2,2,2]' WHERE id < 50")
    mirrored.execute("DELETE FROM items WHERE id BETWEEN 100 AND 120")
    mirrored.catch_up()
    assert_finds_the_nearest(mirrored, "true")
    assert_finds_the_nearest(mirrored, "price < 3")
    mirrored.assert_equal()
    mirrored.processes.restart_server(kill=True)
    mirrored.wait_live()
    assert_finds_the_nearest(mirrored, "true")
    assert mirrored.describe()["backend"] == "cuda"
    figures = httpx.get(f"{mirrored.processes.url}/metrics", trust_env=False).text
    assert "vecmirror_device_lost 0.0" in figures


def assert_finds_the_nearest(mirrored: Mirrored, condition: str) -> None:
    """Compare hits with all rows of the table."""
    found = mirrored.execute(f"SELECT id, embedding::text FROM items WHERE {condition} ORDER BY id")
    ids = np.array([row[0] for row in found])
    rows = np.array(
        [[float(x) for x in row[1].strip("[]").split(",")] for row in found], np.float32
    )
    for seed in range(3):
        query = np.random.default_rng(seed).normal(size=(1, DIM)).astype(np.float32)
        filtered = {} if condition == "true" else {"filter": condition}
        hits = mirrored.search(query[0].tolist(), 5, exact=True, **filtered)
        places, distances = nearest("l2", query, rows, np.ones(len(rows), np.bool_), 5)
        assert [int(hit["key"]) for hit in hits] == ids[places[0]].tolist()
        np.testing.assert_allclose([h["distance"] for h in hits], distances[0], rtol=1e-5)
