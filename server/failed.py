"""FailedMirror: an index that is on disk but cannot be read. It can be looked at and dropped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import pyarrow as pa

from .acks import Ack
from .errors import MirrorFailed
from .pins import Pin
from .spec import IndexSpec
from .state import MirrorState
from .waiters import Callback


class FailedMirror:
    """Stands where a Mirror would be; everything but looking raises MirrorFailed."""

    def __init__(self, spec: IndexSpec, reason: str) -> None:
        self.spec = spec
        self.failed: str | None = reason

    @property
    def state(self) -> MirrorState:
        """Raise MirrorFailed: there is none."""
        self._refuse()

    def submit(self, body: bytes | memoryview, *, sync: bool = False) -> Ack:
        """Raise MirrorFailed."""
        self._refuse()

    def wait_applied(self, lsn: int, timeout_s: float) -> MirrorState:
        """Raise MirrorFailed."""
        self._refuse()

    def add_waiter(self, lsn: int, callback: Callback) -> int:
        """Raise MirrorFailed."""
        self._refuse()

    def remove_waiter(self, token: int) -> None:
        """Do nothing: there are no waiters."""

    def describe(self) -> dict[str, object]:
        """Return what can be known without the rows."""
        return {
            "name": self.spec.name,
            "spec": self.spec.to_json(),
            "metric": self.spec.metric,
            "dim": self.spec.table.dim,
            "failed": self.failed,
            "phase": "failed",
        }

    def start_training(self) -> bool:
        """Raise MirrorFailed."""
        self._refuse()

    def snapshot(self) -> int:
        """Raise MirrorFailed."""
        self._refuse()

    def pin(self) -> Pin:
        """Raise MirrorFailed."""
        self._refuse()

    def fix(self, pin_id: str, lsn: int, timeout_s: float = 0.0) -> Pin:
        """Raise MirrorFailed."""
        self._refuse()

    def pin_rows(self, pin_id: str, batch_rows: int = 0) -> Iterator[pa.RecordBatch]:
        """Raise MirrorFailed."""
        self._refuse()

    def unpin(self, pin_id: str) -> None:
        """Raise MirrorFailed."""
        self._refuse()

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def _refuse(self) -> NoReturn:
        raise MirrorFailed(self.spec.name, self.failed or "")
