"""Deadlines of many short waits on one event loop, each for the price of an entry in a set.

A timer of the event loop costs about a quarter of what a small request does, and nearly all are
cancelled. Here deadlines lie in slots of TICK_S; one timer looks at the slots that have come, and
only while anything may wait.

Invariants:

- A call is made once, at its time or up to two ticks later; never after ``cancel``.
- A deadline that was cancelled holds on to nothing.

All methods run on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

#: Well below any time limit a client would set, well above what a tick costs (5 microseconds).
TICK_S = 0.01


class Deadline:
    """One call to be made."""

    __slots__ = ("_call", "_slot")

    def __init__(self, slot: set[Deadline], call: Callable[[], None]) -> None:
        self._slot, self._call = slot, call
        slot.add(self)

    def cancel(self) -> None:
        """Make the call never, if it has not been made."""
        self._slot.discard(self)
        self._call = _nothing

    def come(self) -> None:
        """Make the call."""
        call, self._call = self._call, _nothing
        call()


class Deadlines:
    """Those of one event loop, which is the one that ``add`` is first called on."""

    def __init__(self, clock_s: Callable[[], float] = monotonic) -> None:
        self._clock_s = clock_s
        self._slots: dict[int, set[Deadline]] = {}
        #: The number of the last slot that was looked at, while the timer runs.
        self._looked_at = 0
        self._ticking = False

    def add(self, delay_s: float, call: Callable[[], None]) -> Deadline:
        """Make ``call`` after ``delay_s`` seconds unless the result is cancelled."""
        now_s = self._clock_s()
        number = int((now_s + max(delay_s, 0.0)) / TICK_S) + 1
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = set()
            if not self._ticking:
                self._looked_at, self._ticking = int(now_s / TICK_S), True
                asyncio.get_running_loop().call_later(TICK_S, self._tick)
        return Deadline(slot, call)

    def _tick(self) -> None:
        loop, now = asyncio.get_running_loop(), int(self._clock_s() / TICK_S)
        for number in range(self._looked_at + 1, now + 1):
            for deadline in self._slots.pop(number, ()):
                loop.call_soon(deadline.come)  # an error of one is not the others'
        self._looked_at = now
        self._ticking = bool(self._slots)
        if self._ticking:
            loop.call_later(TICK_S, self._tick)


def _nothing() -> None:
    """Stand for a call that is over."""
