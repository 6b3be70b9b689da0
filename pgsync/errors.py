"""Everything that can go wrong between Postgres and the index server.

    SyncError
     +- DecodeError      bytes from Postgres that are not what its documentation says
     +- SourceError      the source refuses or cannot do what is needed; the message says the mend
     |   +- SourceUnavailable   connection lost or refused: retried with back-off
     |   +- ResyncNeeded        the stream no longer describes the table: copy the table again
     +- SinkError        the index server refused a batch
         +- SinkUnavailable     not reachable or not ready: retried with back-off

Messages never contain row values. Causes are chained, not pasted in.
"""

from __future__ import annotations


class SyncError(Exception):
    """Root of everything the sidecar raises on purpose."""


class DecodeError(SyncError):
    """Malformed bytes: ``tag`` is the message or type, ``offset`` the position in bytes."""

    def __init__(self, tag: str, offset: int, reason: str) -> None:
        self.tag, self.offset, self.reason = tag, offset, reason
        super().__init__(f"{tag} at byte {offset}: {reason}")


class SourceError(SyncError):
    """The source database refuses or cannot do what mirroring needs."""


class SourceUnavailable(SourceError):
    """The connection to the source was lost or refused; a retry may help."""


class ResyncNeeded(SourceError):
    """The stream no longer describes the table's content; only a new copy does."""


class SinkError(SyncError):
    """The index server refused what was sent; ``status`` is the HTTP status."""

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class SinkUnavailable(SinkError):
    """The index server is not reachable or not ready; a retry may help."""
