"""Mirror: one mirrored column, kept in step with its table and searchable at every moment.

The public signatures; the writer follows in the next commits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .spec import IndexSpec
from .state import MirrorState


@dataclass(frozen=True, slots=True)
class Ack:
    """Answer to a change batch. Only ``durable_lsn`` may be confirmed to Postgres."""

    durable_lsn: int
    applied_lsn: int
    epoch: int


class MirrorLike(Protocol):
    """What the API may call on a mirror. Every method may be called from any thread."""

    spec: IndexSpec
    state: MirrorState  # raises MirrorFailed when the index could not be loaded
    failed: str | None  # why the index cannot be served

    def submit(self, body: bytes, *, sync: bool = False) -> Ack:
        """Journal, fsync and apply one change batch; blocking.

        ``sync`` makes even a batch without rows durable, so that its watermark counts. Raises
        BadBatch, StaleEpoch, ResyncRequired, StorageFull, StorageError, MirrorFailed.
        """

    def wait_applied(self, lsn: int, timeout_s: float) -> MirrorState:
        """Return a state that has applied ``lsn``; raise StaleIndex after ``timeout_s``."""

    def add_waiter(self, lsn: int, callback: Callable[[MirrorState], None]) -> int:
        """Call ``callback`` once, from any thread, when ``lsn`` is applied (maybe at once).

        For asyncio: ``loop.call_soon_threadsafe(...)`` inside the callback. Returns a token.
        """

    def remove_waiter(self, token: int) -> None:
        """Forget a waiter; nothing happens if it was called already."""

    def describe(self) -> dict[str, object]:
        """Return the JSON of ``GET /v1/indexes/{name}``."""

    def start_training(self) -> bool:
        """Start training in the background; False when one runs already or there are no rows."""

    def snapshot(self) -> int:
        """Write a snapshot now; return the LSN inside it. Blocking."""
