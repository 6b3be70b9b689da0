"""``vecmirror demo --once`` with real processes, from an empty machine's view."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TIMEOUT_S = 240
CLOSING = re.compile(r"demo ok: rows=(\d+) recall@10=(\d\.\d+) commit_to_searchable_ms=(\d+\.\d)")


def start_demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the demonstration with all its temporary files below ``folder``."""
    return subprocess.Popen(
        [sys.executable, "-m", "server.cli", "demo", *arguments],
        env={**os.environ, "TMPDIR": str(folder), "VECMIRROR_SERVER__PORT": "nonsense"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_below(folder: Path) -> list[str]:
    """Return the command lines of processes that name ``folder`` or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().replace("\0", " ")
            where = str((process / "cwd").readlink())
        except OSError:
            continue
        if str(folder) in command + where:
            found.append(command)
    return found


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the account Postgres runs as can reach, and a short path."""
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/demo-XXXXXX"], text=True).strip())
    folder.chmod(0o1777)
    return folder


@pytest.mark.timeout(TIMEOUT_S + 30)
def test_shows_everything_and_leaves_nothing(temporary: Path) -> None:
    process = start_demo(temporary, "--once")
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    closing = CLOSING.fullmatch(output.splitlines()[-1])
    assert closing, output
    assert int(closing[1]) == 10_000 + 40
    assert float(closing[2]) >= 0.9
    assert float(closing[3]) > 0
    for part in ("train the IVF-PQ index", "rorqual", "INSERT", "UPDATE", "DELETE", "Recall"):
        assert part in output
    for part in ("sql-install words --run", "FROM vecmirror.words", "5 rows", "found after"):
        assert part in output
    assert processes_below(temporary) == []
    assert list(temporary.iterdir()) == []
    temporary.rmdir()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_leaves_nothing(temporary: Path, number: signal.Signals) -> None:
    process = start_demo(temporary)
    deadline = time.monotonic() + 60
    while not any("serve" in line for line in processes_below(temporary)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    assert processes_below(temporary) == []
    assert list(temporary.iterdir()) == []
    temporary.rmdir()


LOST = """
import os, signal, time
from server.demo import show

class Dying:
    def __del__(self):
        os.kill(os.getpid(), {number})
        time.sleep(0.01)

with show._terminated_as_exit():
    try:
        Dying()
        print("lost", flush=True)
        time.sleep(60)
    finally:
        show._ignore_interrupts()
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, -signal.SIGINT)]
)
def test_a_signal_that_a_destructor_loses_ends_it_all_the_same(number: int, status: int) -> None:
    command = [sys.executable, "-c", LOST.format(number=int(number))]
    done = subprocess.run(command, capture_output=True, check=False, timeout=50, text=True)
    assert (done.returncode, done.stdout) == (status, "lost\n")
