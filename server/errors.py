"""Everything the index server raises on purpose.

    ServerError
     +- BadRequest              the caller sent something that cannot be done as sent
     |   +- BadBatch            a change batch that is malformed or has another schema
     |   +- BadName             an index name outside the rule
     |   +- UnknownColumn       no such filter column
     +- NotFound
     |   +- UnknownIndex
     |   +- UnknownPin          never existed, expired, or lost to a new copy
     +- Conflict
     |   +- IndexExists
     |   +- StaleEpoch          a batch of an older copy
     |   +- ResyncRequired      only a new copy can describe the table again
     |   +- PinConflict         a pin cannot be had or fixed as asked
     +- StaleIndex              the LSN asked for was not applied in time
     +- NotReady
     |   +- IndexLoading        the catalog is still reading this index
     |   +- MirrorFailed        this index cannot be served; the reason says why
     +- StorageError            the disk refused
         +- StorageFull         no space, quota or file size left; a retry may help
         +- DataDirLocked       another server owns the data directory
         +- JournalCorrupt      a journal record other than the torn last one is damaged
         +- SnapshotCorrupt     a snapshot does not have the bytes its manifest promises

Messages never contain row values. Causes are chained, not pasted in. ``server/problems.py`` maps
each class to a status and a problem type.
"""

from __future__ import annotations

from pgsync.lsn import format_lsn


class ServerError(Exception):
    """Root of everything the server raises on purpose."""


class BadRequest(ServerError):
    """The caller sent something that cannot be done as sent."""


class BadBatch(BadRequest):
    """A change batch is malformed, out of order, or has another schema than the index."""


class BadName(BadRequest):
    """An index name is outside the rule ``[a-z0-9_][a-z0-9_.-]{0,62}``."""

    def __init__(self) -> None:
        super().__init__(
            "an index name is 1 to 63 of a-z, 0-9, '_', '.', '-' and does not start with '.' or '-'"
        )


class UnknownColumn(BadRequest):
    """The index mirrors no filter column of that name."""

    def __init__(self, column: str) -> None:
        self.column = column
        super().__init__(f"the index has no filter column {column!r}")


class NotFound(ServerError):
    """The thing named does not exist."""


class UnknownIndex(NotFound):
    """No index has that name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"there is no index {name!r}")


class UnknownPin(NotFound):
    """No such pin: never made, let go, expired, or lost because a new copy began."""

    def __init__(self) -> None:
        super().__init__("there is no such pin; it may have expired: make a new one")


class Conflict(ServerError):
    """The request does not fit the present state."""


class IndexExists(Conflict):
    """An index of that name exists already."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"an index {name!r} exists already")


class StaleEpoch(Conflict):
    """A batch belongs to an older copy than the newest one begun (``current``)."""

    def __init__(self, epoch: int, current: int) -> None:
        self.epoch, self.current = epoch, current
        super().__init__(f"epoch {epoch} is over; the newest is {current}")


class ResyncRequired(Conflict):
    """The changes sent cannot be applied to what the index holds: copy the table again."""


class PinConflict(Conflict):
    """Another pin holds the index, or the position asked for has been passed already."""


class StaleIndex(ServerError):
    """``wanted`` was not applied within the time given; ``applied_lsn`` is how far it got."""

    def __init__(self, applied_lsn: int, wanted: int) -> None:
        self.applied_lsn, self.wanted = applied_lsn, wanted
        super().__init__(
            f"the index has applied {format_lsn(applied_lsn)}, not yet {format_lsn(wanted)}"
        )


class NotReady(ServerError):
    """The index cannot answer now."""


class IndexLoading(NotReady):
    """The catalog is still reading indexes from disk."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"index {name!r} is still loading")


class MirrorFailed(NotReady):
    """The index cannot be served; ``reason`` says why. Drop and attach it to build it anew."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"index {name!r} has failed: {reason}")


class StorageError(ServerError):
    """The disk refused to keep or to give back what the server needs."""


class StorageFull(StorageError):
    """No space, quota or file size left. Nothing was acknowledged; a retry may help."""


class DataDirLocked(StorageError):
    """Another server owns the data directory."""


class JournalCorrupt(StorageError):
    """A journal record that was acknowledged is damaged or missing."""


class SnapshotCorrupt(StorageError):
    """A snapshot does not have the bytes that its manifest promises."""
