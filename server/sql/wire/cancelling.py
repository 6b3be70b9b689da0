"""Cancel keys, and what ends a running statement from outside.

Invariants:

- A key is random, and compared in constant time; a wrong one changes nothing and is not answered.
- A connection that runs no statement is not touched: the request came too late.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable
from types import TracebackType

from server.sql.errors import SqlError

#: Bytes of a key: protocol 3.0 knows four; 3.2 takes more, and Postgres 18 sends as many.
SHORT_KEY_BYTES, LONG_KEY_BYTES = 4, 32


def cancelled_by_user() -> SqlError:
    """Return the error of a statement that a CancelRequest ended."""
    return SqlError("57014", "canceling statement due to user request")


def timed_out(timeout_s: float) -> SqlError:
    """Return the error of a statement that ran too long."""
    return SqlError(
        "57014",
        f"canceling statement due to statement timeout ({timeout_s:g} s)",
        hint="sql.statement_timeout_ms sets it",
    )


def shutting_down() -> SqlError:
    """Return the error of a connection that ends because the server does."""
    return SqlError("57P01", "terminating connection due to administrator command", fatal=True)


class CancelKeys:
    """Which process id and key end the statements of which connection."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[bytes, Callable[[SqlError], None]]] = {}

    def issue(self, interrupt: Callable[[SqlError], None], size: int) -> tuple[int, bytes]:
        """Return a new process id and a key of ``size`` bytes for what ``interrupt`` ends."""
        process_id = secrets.randbelow(2**31 - 1) + 1
        while process_id in self._entries:
            process_id = secrets.randbelow(2**31 - 1) + 1
        key = secrets.token_bytes(size)
        self._entries[process_id] = key, interrupt
        return process_id, key

    def revoke(self, process_id: int) -> None:
        """Forget a connection that has ended."""
        self._entries.pop(process_id, None)

    def cancel(self, process_id: int, key: bytes) -> None:
        """End the statement that the connection runs, if the key is its."""
        expected, interrupt = self._entries.get(process_id, (b"", None))
        if hmac.compare_digest(expected, key) and interrupt is not None:
            interrupt(cancelled_by_user())


class Interrupts:
    """Ends what its connection's task runs, by cancelling the task and saying why.

    ``with interrupts:`` lets what runs inside be interrupted, and raises the reason in place of
    CancelledError. One timer watches over all statements of a connection: most end long before
    their limit, so it is set anew only when it goes off too early.
    """

    def __init__(self, timeout_s: float) -> None:
        """``timeout_s`` 0: statements have no time limit."""
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[object] | None = None
        self._reason: SqlError | None = None
        self._deadline_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def reason(self) -> SqlError | None:
        """Why the last statement was ended, if it was."""
        return self._reason

    def interrupt(self, reason: SqlError) -> None:
        """End the running statement, if any, with ``reason`` as its error."""
        if self._task is not None and self._reason is None:
            self._reason = reason
            self._task.cancel()

    def close(self) -> None:
        """Stop watching: the connection has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def __enter__(self) -> None:
        """Begin a statement of the task that runs."""
        task = asyncio.current_task(self._loop)
        assert task is not None, "statements run in tasks"
        self._task, self._reason = task, None
        if self._timeout_s:
            self._deadline_s = self._loop.time() + self._timeout_s
            if self._timer is None:
                self._timer = self._loop.call_later(self._timeout_s, self._watch)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it; raise the reason if it was interrupted."""
        task, self._task = self._task, None
        if self._reason is None:
            return  # if it was cancelled, it is the task that ends, not the statement
        assert task is not None
        task.uncancel()
        if kind is asyncio.CancelledError:
            raise self._reason from error

    def _watch(self) -> None:
        self._timer = None
        left_s = self._deadline_s - self._loop.time()
        if self._task is None:
            return
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._watch)
        else:
            self.interrupt(timed_out(self._timeout_s))
