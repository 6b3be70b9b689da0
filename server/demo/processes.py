"""The server and the sidecar of the demonstration, as processes of their own.

Invariants:

- They run with the demonstration's configuration only: no variable or file of the user's counts.
- A terminal's Ctrl-C does not reach them; ``stop`` ends them in order, at last with SIGKILL.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

POLL_S = 0.05
STOP_TIMEOUT_S = 15.0


class DemoFailed(Exception):
    """A step of the demonstration failed; the message ends with the logs' last lines."""


def demo_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return our environment without the user's VECMIRROR_* and PG*, plus ``settings``.

    The SQL port takes any free number: another server may have the usual one.
    """
    ours = {k: v for k, v in os.environ.items() if not k.upper().startswith(("VECMIRROR_", "PG"))}
    return {**ours, "PYTHONUNBUFFERED": "1", "VECMIRROR_SQL__PORT": "0", **settings}


def run_vecmirror(arguments: Sequence[str], environment: Mapping[str, str], cwd: Path) -> str:
    """Run one ``vecmirror`` command to its end; return what it printed, or raise DemoFailed."""
    done = subprocess.run(
        _command(arguments), env=environment, cwd=cwd, check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        said = (done.stderr + done.stdout).strip()
        raise DemoFailed(f"vecmirror {arguments[0]} ended with status {done.returncode}:\n{said}")
    return done.stdout


class ChildProcess:
    """One ``vecmirror`` process that keeps running, with its output in a log file."""

    def __init__(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                _command(arguments),
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise DemoFailed when the process has ended, with the end of its log."""
        status = self._process.poll()
        if status is not None:
            tail = self.log_tail()
            raise DemoFailed(f"the {self.name} ended with status {status}; its log ends:\n{tail}")

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Ask the process to end, and make it end when it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def kill(self) -> None:
        """End the process at once, as a crash would."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()


def wait_until(
    condition: Callable[[], bool],
    what: str,
    children: Sequence[ChildProcess],
    timeout_s: float = 60.0,
) -> None:
    """Wait for ``condition`` while all children run; raise DemoFailed otherwise."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        for child in children:
            child.check()
        if time.monotonic() > deadline:
            logs = "\n".join(f"--- {child.name}\n{child.log_tail()}" for child in children)
            raise DemoFailed(f"waited {timeout_s:.0f} s for {what}; the logs end:\n{logs}")
        time.sleep(POLL_S)


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "server.cli", *arguments]
