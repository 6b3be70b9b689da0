"""kill -9 at any moment: everything acknowledged is there, nothing half, and the feed goes on."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from server.mirror import Mirror, MirrorOptions
from tests.change_batches import Table, contents
from tests.crash.writer_process import FIRST_LSN, SPEC, transaction


@pytest.mark.parametrize("doing", ["nothing", "compact"])
def test_after_kill_9_everything_acknowledged_is_there_and_nothing_half(
    doing: str, tmp_path: Path
) -> None:
    seed, chance = 7, random.Random(7)
    start = compactions = 0
    for _ in range(6):
        lines = _feed_until_killed(tmp_path, seed, start, chance.uniform(0.05, 0.5), doing)
        sent, acked, durable = _told(lines, start)
        compactions += sum(line.startswith("compacted") for line in lines)
        mirror = Mirror(tmp_path, SPEC, MirrorOptions(background=False))
        found = contents(mirror.state)
        complete = _transactions_in(mirror.state.applied_lsn)
        assert complete in (acked + 1, sent + 1)
        assert found == _expected(seed, complete)
        assert mirror.describe()["durable_lsn"] == mirror.describe()["applied_lsn"]
        assert mirror.state.applied_lsn >= durable
        mirror.close()
        start = complete
    assert start > 20, "the processes lived too short to show anything"
    assert (compactions > 10) == (doing == "compact")


@pytest.mark.parametrize("copied", [0, 3])
def test_a_server_killed_during_a_copy_asks_for_a_new_one(tmp_path: Path, copied: int) -> None:
    script = f"""
import os, signal
from pathlib import Path
from tests.fix_mirrors import Feeder
from pgsync.changes import BatchKind
feeder = Feeder(Path({str(tmp_path)!r}))
feeder.send(BatchKind.COPY_BEGIN)
for key in range({copied}):
    feeder.send(BatchKind.COPY, [feeder.upsert(key, (1.0, 2.0, 3.0))])
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, cwd=Path.cwd())
    assert ended.returncode == -9
    mirror = Mirror(tmp_path, SPEC, MirrorOptions(background=False))
    assert mirror.state.phase == "copying"
    assert contents(mirror.state) == {}
    mirror.close()


def _feed_until_killed(
    directory: Path, seed: int, start: int, life_s: float, doing: str
) -> list[str]:
    """Return the lines that a writer printed before it was killed."""
    command = [sys.executable, "-u", "-m", "tests.crash.writer_process"]
    with subprocess.Popen(
        [*command, str(directory), str(seed), str(start), doing], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()  # the process is past its imports
        time.sleep(life_s)
        process.kill()
        return [first, *process.stdout]


def _told(lines: list[str], start: int) -> tuple[int, int, int]:
    """Return the last transaction sent, the last acknowledged, and its durable LSN."""
    words = [line.split() for line in lines if line.endswith("\n") and not line.startswith("20")]
    sent = max((int(w[1]) for w in words if w and w[0] == "sent"), default=start - 1)
    acks = [(int(w[1]), int(w[2])) for w in words if w and w[0] == "acked"]
    acked, durable = max(acks, default=(start - 1, 0))
    return sent, acked, durable


def _transactions_in(applied_lsn: int) -> int:
    """Return how many transactions a state with this LSN holds: a watermark is commit + 1."""
    return 0 if applied_lsn <= FIRST_LSN else (applied_lsn - FIRST_LSN - 1) // 10 + 1


def _expected(seed: int, count: int) -> dict[Any, Any]:
    table = Table()
    for number in range(count):
        for change in transaction(seed, number):
            table.apply(change)
    return table.indexed()
