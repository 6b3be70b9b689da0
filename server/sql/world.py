"""What sessions need of the server around them; the HTTP port's Context is one."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Protocol

from server.catalog import CatalogLike
from server.mirror import MirrorLike
from server.settings import Settings


class SqlWorld(Protocol):
    """One server, as its SQL sessions see it."""

    @property
    def settings(self) -> Settings:
        """The server's settings."""
        ...

    @property
    def catalog(self) -> CatalogLike:
        """The indexes by name."""
        ...

    @property
    def searchers(self) -> Executor:
        """The threads that search."""
        ...

    async def wait_applied(self, mirror: MirrorLike, lsn: int, timeout_s: float) -> None:
        """Wait until ``lsn`` is applied, without a thread; raise StaleIndex or Overloaded."""
        ...

    async def source_lsn(self) -> int:
        """Return how far the source has flushed its log; raise SourceNotConfigured or the like."""
        ...
