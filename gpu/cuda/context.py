"""What CUDA itself takes of a card: its context and our kernels, as the driver's NVML sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from gpu.errors import BackendError

from .nvml import memory_used, short_place


class WarmCard(Protocol):
    """A card with a context and every kernel loaded."""

    @property
    def pci_bus_id(self) -> str:
        """Where the card is."""
        ...

    @property
    def held_bytes(self) -> int:
        """Bytes of its memory that we have allocated."""
        ...


def measured_context_bytes(
    warm_card: Callable[[], WarmCard],
    used: Callable[[], Mapping[str, int]] = memory_used,
) -> int:
    """Return how much more of a card is in use once ``warm_card`` has run, our memory left out.

    Whoever else allocates on it meanwhile is counted too. Raise BackendError where NVML says
    nothing of the card, or the process had a context on it before.
    """
    before = used()
    card = warm_card()
    place, after = short_place(card.pci_bus_id), used()
    if place not in before or place not in after:
        raise BackendError(f"NVML says nothing of the memory of the card at {place or '?'}")
    grown = after[place] - before[place] - card.held_bytes
    if grown <= 0:
        raise BackendError("the card's memory did not grow: this process had a context before")
    return grown
