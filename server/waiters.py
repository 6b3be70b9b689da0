"""Waiters: who wants to know when an LSN is applied.

Invariant: a waiter is called exactly once or removed, never both, and never with a state older than
it asked for.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from threading import Lock

from .state import MirrorState

Callback = Callable[[MirrorState], None]


class Waiters:
    """Callbacks by the LSN they wait for. Callbacks must be quick: the writer calls them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._heap: list[tuple[int, int]] = []
        self._callbacks: dict[int, Callback] = {}
        self._last_token = 0

    def add(self, lsn: int, callback: Callback) -> int:
        """Register a waiter and return its token."""
        with self._lock:
            self._last_token += 1
            self._callbacks[self._last_token] = callback
            heapq.heappush(self._heap, (lsn, self._last_token))
            return self._last_token

    def remove(self, token: int) -> None:
        """Forget a waiter; harmless when it was called or removed before."""
        with self._lock:
            self._callbacks.pop(token, None)

    def wake(self, state: MirrorState) -> None:
        """Call every waiter whose LSN ``state`` has applied."""
        for callback in self._due(state.applied_lsn):
            callback(state)

    def _due(self, applied_lsn: int) -> list[Callback]:
        due = []
        with self._lock:
            while self._heap and self._heap[0][0] <= applied_lsn:
                callback = self._callbacks.pop(heapq.heappop(self._heap)[1], None)
                if callback is not None:
                    due.append(callback)
        return due
