"""Streams of the emulated device: work runs when it is queued, or only when somebody waits for it.

The second way (``lazy``) makes a missing synchronisation a wrong answer every time, not one in a
thousand on a user's machine: until then downloads have not arrived and uploads not left.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from gpu.cuda.device import Event, Stream
from gpu.errors import BackendError


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
        self._recording: list[Callable[[], None]] | None = None

    @property
    def idle(self) -> bool:
        """Return whether nothing is queued."""
        return not self._queue

    def queue(self, work: Callable[[], None]) -> None:
        """Take work; run it at once unless lazy."""
        with self._lock:
            if self._recording is not None:
                self._recording.append(work)
                return
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
            if self._recording is not None:
                raise BackendError("a stream that is being captured cannot be waited for")
            self._guard()
            self.run_until(self._queued)

    def record(self) -> EmulatedEvent:
        """Mark the present end of the queue."""
        with self._lock:
            return EmulatedEvent(self, self._queued)

    def recorded(self, work: Callable[[], None]) -> list[Callable[[], None]]:
        """Return what ``work`` queues, without running it."""
        with self._lock:
            recording: list[Callable[[], None]] = []
            self._recording = recording
            try:
                work()
            finally:
                self._recording = None
            return recording

    def wait_for(self, event: Event) -> None:
        """Queue a wait for another stream's event."""
        self.queue(event.wait)


class EmulatedGraph:
    """Recorded work, queued again by each launch."""

    def __init__(self, work: list[Callable[[], None]]) -> None:
        self._work = work

    def launch(self, stream: Stream) -> None:
        """Queue all of it."""
        if not isinstance(stream, EmulatedStream):
            raise BackendError("this is not a stream of the emulated device")
        for piece in self._work:
            stream.queue(piece)
