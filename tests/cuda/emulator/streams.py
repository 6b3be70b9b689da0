"""Streams of the emulated device: work runs when it is queued, or only when somebody waits for it.

The second way (``lazy``) makes a missing synchronisation a wrong answer every time, not one in a
thousand on a user's machine: until then downloads have not arrived and uploads not left.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from gpu.cuda.device import Event


class EmulatedEvent:
    """The end of the work that a stream had when it was recorded."""

    def __init__(self, stream: EmulatedStream, position: int) -> None:
        self._stream = stream
        self._position = position

    def wait(self) -> None:
        """Run the stream's work up to here."""
        self._stream.run_until(self._position)


class EmulatedStream:
    """A queue of closures. ``guard`` is called before each wait (injected failures)."""

    def __init__(self, lock: threading.RLock, lazy: bool, guard: Callable[[], None]) -> None:
        self._lock = lock
        self._lazy = lazy
        self._guard = guard
        self._queue: deque[Callable[[], None]] = deque()
        self._queued = 0
        self._done = 0

    @property
    def idle(self) -> bool:
        """Return whether nothing is queued."""
        return not self._queue

    def queue(self, work: Callable[[], None]) -> None:
        """Take work; run it at once unless lazy."""
        with self._lock:
            self._queue.append(work)
            self._queued += 1
            if not self._lazy:
                self.run_until(self._queued)

    def run_until(self, position: int) -> None:
        """Run work in order until ``position`` pieces are done."""
        with self._lock:
            while self._done < position and self._queue:
                work = self._queue.popleft()
                self._done += 1
                work()

    def synchronize(self) -> None:
        """Run everything that is queued."""
        with self._lock:
            self._guard()
            self.run_until(self._queued)

    def record(self) -> EmulatedEvent:
        """Mark the present end of the queue."""
        with self._lock:
            return EmulatedEvent(self, self._queued)

    def wait_for(self, event: Event) -> None:
        """Queue a wait for another stream's event."""
        self.queue(event.wait)
