"""A server process whose card is lost: no wrong answer, status 75, every row back after a start.

The card's memory is spoilt at the same moment, so whatever is still answered from it is wrong.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from server.client import ServerRefused, ServerUnreachable
from server.demo.processes import ChildProcess, DemoFailed
from tests.cuda.host.conftest import ROWS
from tests.fix_mirroring import Mirrored, wait_for

TIMEOUT_S = 900
#: Of test queries, among rows within 0.5 of the origin: nobody's distances are alike by chance.
N_QUERIES, K = 6, 20
#: More than there are rows: an answer holds all of them.
ALL = 1000
#: Both find the K nearest for certain: all rows, and all lists with enough to compare again.
HOW: tuple[Mapping[str, object], ...] = ({"exact": True}, {"nprobe": 8, "rerank": 200})

Truth = Mapping[int, float]


def _queries() -> list[list[float]]:
    found: list[list[float]] = np.random.default_rng(5).uniform(-0.5, 0.5, (N_QUERIES, 8)).tolist()
    return found


def _truth(mirrored: Mirrored, query: list[float]) -> Truth:
    """Return every row's distance, as Postgres sees it."""
    select = "SELECT id, embedding <-> %s::vector FROM items"
    return dict(mirrored.execute(select, [str(query)]))


class Searcher:
    """Searches all the time; ``wrong`` are answers that Postgres contradicts."""

    def __init__(self, mirrored: Mirrored) -> None:
        self._mirrored = mirrored
        self._truth = [(query, _truth(mirrored, query)) for query in _queries()]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.right, self.refused, self.wrong = 0, 0, []  # type: ignore[var-annotated]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Search until the end of the block."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def _run(self) -> None:
        turn = 0
        while not self._stop.is_set():
            query, truth = self._truth[turn % N_QUERIES]
            how = HOW[turn % len(HOW)]
            turn += 1
            try:
                answer = self._mirrored.client.search(
                    self._mirrored.name, {"vector": query, "k": K, **how}
                )
            except (ServerRefused, ServerUnreachable):
                self.refused += 1
                time.sleep(0.01)
                continue
            self._judge(answer["hits"], truth)

    def _judge(self, hits: list[dict[str, Any]], truth: Truth) -> None:
        nearest = sorted(truth, key=truth.__getitem__)[:K]
        right = [hit["key"] for hit in hits] == nearest and all(
            abs(hit["distance"] - truth[hit["key"]]) < 1e-5 for hit in hits
        )
        if right:
            self.right += 1
        else:
            self.wrong.append(hits)


def wait_ended(server: ChildProcess) -> str:
    """Wait until the process has ended by itself; return how, with the end of its log."""
    said: list[str] = []

    def ended() -> bool:
        try:
            server.check()
        except DemoFailed as error:
            said.append(str(error))
        return bool(said)

    wait_for(ended, "the server to end")
    return said[0]


def assert_every_row_is_there(mirrored: Mirrored) -> None:
    """Compare each row of the table, by its distance to every query, with the index alone."""
    for query in _queries():
        truth = _truth(mirrored, query)
        body = {"vector": query, "k": ALL, "exact": True}
        hits = mirrored.client.search(mirrored.name, body)["hits"]
        found = {hit["key"]: hit["distance"] for hit in hits}
        assert found.keys() == truth.keys()
        for key, distance in truth.items():
            assert found[key] == pytest.approx(distance, rel=1e-5, abs=1e-6)


def snapshots(folder: Path) -> dict[str, int]:
    """Return the files below the data directory that are no journal, and when they were written."""
    files = (path for path in (folder / "data").rglob("*") if path.is_file())
    return {str(p): p.stat().st_mtime_ns for p in files if "journal" not in str(p.parent)}


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("met_by", ["a search", "a change"])
def test_a_lost_card_ends_the_server_with_75_and_the_next_one_has_every_row(
    met_by: str, mirrored: Mirrored, fault_order: Path
) -> None:
    processes = mirrored.processes
    mirrored.wait_until(lambda description: bool(description["trained"]))
    mirrored.execute("DELETE FROM items WHERE id BETWEEN 100 AND 120")
    mirrored.catch_up()
    url = f"{processes.url}/v1/indexes/{mirrored.name}/snapshot"
    assert httpx.post(url, trust_env=False, timeout=60).status_code == 200
    mirrored.execute(ROWS.format(401, 460))  # in the journal only
    mirrored.execute("UPDATE items SET embedding = embedding * '[2,2,2,2,2,2,2,2]' WHERE id < 50")
    mirrored.catch_up()
    before = mirrored.describe()
    assert before["backend"] == "cuda"
    saved = snapshots(processes.folder)
    assert saved

    if met_by == "a search":
        processes.sidecar.stop()  # what comes back comes from this machine's files alone
        searcher = Searcher(mirrored)
        with searcher.running():
            wait_for(lambda: searcher.right >= 4, "right answers")
            fault_order.touch()
            ended = wait_ended(processes.server)
        assert searcher.wrong == []
        assert searcher.refused > 0
    else:
        fault_order.touch()
        mirrored.execute(ROWS.format(461, 480))
        ended = wait_ended(processes.server)
        processes.sidecar.stop()
    assert "ended with status 75" in ended
    assert snapshots(processes.folder) == saved, "nothing of a lost card is saved"
    lines = [
        json.loads(line) for line in processes.server.log.read_text().splitlines() if "{" in line
    ]
    (critical,) = [line for line in lines if line.get("level") == "critical"]
    assert critical["event" if "event" in critical else "message"].startswith("the card is lost")

    fault_order.unlink()
    processes.restart_server(kill=False)  # it has ended: this starts it, as its supervisor would
    wait_for(lambda: mirrored.client.ready() or _loaded(mirrored), "the index")
    after = mirrored.describe()
    assert (after["backend"], after["epoch"]) == ("cuda", before["epoch"])
    if met_by == "a search":
        assert after["rows"] == before["rows"]
        assert_every_row_is_there(mirrored)
    mirrored.execute(ROWS.format(481, 500))
    processes.restart_sidecar(kill=False)
    mirrored.wait_live()
    mirrored.catch_up()
    assert_every_row_is_there(mirrored)
    mirrored.assert_equal()
    assert mirrored.describe()["epoch"] == before["epoch"], "nothing was copied again"


def _loaded(mirrored: Mirrored) -> bool:
    try:
        return bool(mirrored.describe()["rows"])
    except ServerRefused:
        return False
