"""Catalog: the indexes of one data directory, by name. Signatures first."""

from __future__ import annotations

from typing import Protocol

from .mirror import MirrorLike
from .spec import IndexSpec


class CatalogLike(Protocol):
    """Every method may be called from any thread. ``Catalog(data_dir: Path, options)``."""

    loading: bool  # True until load() has read every index

    def load(self) -> None:
        """Open every index on disk; one that cannot be read is there but failed."""

    def create(self, spec: IndexSpec) -> MirrorLike:
        """Make an empty index; raise IndexExists."""

    def get(self, name: str) -> MirrorLike:
        """Return an index; raise UnknownIndex, or IndexLoading while it is being read."""

    def drop(self, name: str) -> None:
        """Forget an index and its files; raise UnknownIndex."""

    def mirrors(self) -> list[MirrorLike]:
        """Return all indexes that are open or failed, by name."""

    def close(self) -> None:
        """Stop background work, snapshot nothing, release the data directory."""
