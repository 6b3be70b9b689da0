"""Pins: hold what a mirror shows at exactly one LSN, so that it can be compared with the table.

A pin first *holds*: changes are journaled and staged, nothing becomes visible. ``fix`` then makes
visible exactly what committed before one LSN, keeps that state for reading, and lets apply go on.

Invariants:

- At most one pin holds; it does so for LEASE_S seconds after its last use and no longer.
- The state of a fixed pin holds the changes below its LSN and no others.
- A new copy ends a holding pin; a fixed one keeps its state.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from .errors import PinConflict, UnknownPin
from .state import MirrorState

#: How long apply stands still for a client that went away.
LEASE_S = 30.0
#: How long a fixed state is kept for a client that does not read on.
READ_LEASE_S = 600.0
#: A fixed state keeps dead rows' memory from nobody, but not nothing: keep few.
MAX_PINS = 8


@dataclass(slots=True)
class Pin:
    """One pin; ``state`` is None while it holds. ``expires_s`` is in the clock of its Pins."""

    id: str
    expires_s: float
    state: MirrorState | None = None


class Pins:
    """The pins of one mirror; the mirror's writer lock guards every call."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pins: dict[str, Pin] = {}

    @property
    def holding(self) -> bool:
        """Whether a pin holds apply now."""
        self._expire()
        return any(pin.state is None for pin in self._pins.values())

    def add(self) -> Pin:
        """Begin to hold; raise PinConflict while another pin does."""
        if self.holding:
            raise PinConflict("another pin holds the index; it lasts at most half a minute")
        if len(self._pins) >= MAX_PINS:
            raise PinConflict("too many pins are being read; delete one first")
        pin = Pin(secrets.token_urlsafe(12), self._clock() + LEASE_S)
        self._pins[pin.id] = pin
        return pin

    def get(self, pin_id: str) -> Pin:
        """Return a pin and renew its lease; raise UnknownPin."""
        self._expire()
        pin = self._pins.get(pin_id)
        if pin is None:
            raise UnknownPin
        pin.expires_s = self._clock() + (LEASE_S if pin.state is None else READ_LEASE_S)
        return pin

    def fix(self, pin: Pin, state: MirrorState) -> None:
        """Give a holding pin its state; it holds no longer."""
        pin.state, pin.expires_s = state, self._clock() + READ_LEASE_S

    def remove(self, pin_id: str) -> None:
        """Let a pin go; raise UnknownPin."""
        self._expire()
        if self._pins.pop(pin_id, None) is None:
            raise UnknownPin

    def stop_holding(self) -> None:
        """End holding pins: a new copy began."""
        self._pins = {pin.id: pin for pin in self._pins.values() if pin.state is not None}

    def _expire(self) -> None:
        now = self._clock()
        self._pins = {pin.id: pin for pin in self._pins.values() if pin.expires_s > now}
