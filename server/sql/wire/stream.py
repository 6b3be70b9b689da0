"""What a conversation needs of its connection, whatever carries the bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from server.sql.errors import SqlError


class Stream(Protocol):
    """Messages in, bytes out."""

    async def message(
        self, timeout_s: float = ..., late: Callable[[], SqlError] = ...
    ) -> tuple[int, bytes]:
        """Return kind and body of the next message; raise ``late()`` after ``timeout_s``, if not 0.

        Raise ConnectionLost when the client is gone, and SqlError for what is no message.
        """
        ...

    def write(self, data: bytes) -> None:
        """Add messages to what is sent next."""
        ...

    @property
    def unsent_bytes(self) -> int:
        """How much was written and not flushed."""
        ...

    async def flush(self) -> None:
        """Send what was written; wait while the client reads slower. Raise ConnectionLost."""
        ...


class ConnectionLost(Exception):
    """The client is gone: there is nobody to tell anything."""
