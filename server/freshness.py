"""How fresh an index is: what its feed said last, and when.

Invariants:

- ``lag_s`` is 0 while the index has everything the source was known to have, else the time since it
  last had: every commit older than that is in.
- Nothing is known before the first batch after a start; then the figures are None.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic


@dataclass(frozen=True, slots=True)
class Freshness:
    """``lag_bytes`` behind the source's log; seconds since complete, and since last heard."""

    source_lsn: int
    durable_lsn: int
    lag_bytes: int
    lag_s: float | None
    silence_s: float


@dataclass(frozen=True, slots=True)
class _Heard:
    source_lsn: int
    durable_lsn: int
    at_s: float
    complete_at_s: float | None


class FeedWatch:
    """Remembers the last word of each index's feed. Any thread may call."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._heard: dict[str, _Heard] = {}

    def heard(
        self, name: str, *, source_lsn: int, durable_lsn: int, applied_lsn: int, sent_at_s: float
    ) -> None:
        """Note a batch that was taken; ``sent_at_s`` is the clock when it began to arrive."""
        with self._lock:
            before = self._heard.get(name)
            complete = before.complete_at_s if before else None
            if applied_lsn >= source_lsn:
                complete = sent_at_s
            self._heard[name] = _Heard(source_lsn, durable_lsn, self._clock(), complete)

    def forget(self, name: str) -> None:
        """Forget an index that was dropped."""
        with self._lock:
            self._heard.pop(name, None)

    def of(self, name: str, applied_lsn: int) -> Freshness | None:
        """Return how fresh the index is that has applied ``applied_lsn``; None: never heard."""
        with self._lock:
            heard = self._heard.get(name)
        if heard is None:
            return None
        now = self._clock()
        return Freshness(
            source_lsn=heard.source_lsn,
            durable_lsn=heard.durable_lsn,
            lag_bytes=max(0, heard.source_lsn - applied_lsn),
            lag_s=_lag_s(heard, applied_lsn, now),
            silence_s=now - heard.at_s,
        )


def _lag_s(heard: _Heard, applied_lsn: int, now: float) -> float | None:
    if applied_lsn >= heard.source_lsn:
        return 0.0
    return None if heard.complete_at_s is None else now - heard.complete_at_s
