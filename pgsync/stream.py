"""ChangeAssembler: replication messages in, ChangeBatches out."""

from __future__ import annotations

from pathlib import Path

from .changes import ChangeBatch
from .table import TableSpec


class ChangeAssembler:
    """Turns the messages of one replication stream into batches of changes of one table.

    Pure but for the spill file of streamed transactions; not thread-safe. After any exception it
    must be closed and thrown away, and the stream be started again from the durable LSN.
    """

    def __init__(
        self,
        table: TableSpec,
        *,
        epoch: int,
        system_id: str,
        start_lsn: int,
        batch_rows: int = 50_000,
        batch_bytes: int = 32 << 20,
        stream_memory_bytes: int = 64 << 20,
        spill_directory: Path | None = None,
    ) -> None:
        self.table = table

    def feed(self, wal_start: int, payload: bytes | memoryview) -> None:
        """Take one pgoutput message: an XLogData message without its 25-byte header.

        The payload is copied: it may be reused. Raises DecodeError and ResyncNeeded.
        """
        raise RuntimeError("not written yet")

    def keepalive(self, wal_end: int) -> None:
        """Take the ``wal_end`` of a primary keepalive message."""
        raise RuntimeError("not written yet")

    def take(self, *, flush: bool = True, max_batches: int = 8) -> list[ChangeBatch]:
        """Return up to ``max_batches`` batches in commit order; call again until it returns none.

        With ``flush`` false only full batches leave (call this while more input is waiting). With
        ``flush`` true the rows of all complete transactions leave, and if there are none but the
        watermark has moved, one batch without rows. A full batch may hold changes of a transaction
        whose commit has not arrived yet; it does not raise the watermark above them.
        Raises DecodeError and ResyncNeeded.
        """
        raise RuntimeError("not written yet")

    def close(self) -> None:
        """Drop what is pending and remove spill files."""

    @property
    def watermark_lsn(self) -> int:
        """Every change with a commit LSN below this has been fed."""
        return 0

    @property
    def source_lsn(self) -> int:
        """The newest position that the stream has named."""
        return 0

    @property
    def pending_rows(self) -> int:
        """Rows that wait for ``take``; those of uncommitted streamed transactions do not count."""
        return 0

    @property
    def pending_bytes(self) -> int:
        """Wire bytes of the pending rows."""
        return 0

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction that is not streamed has begun and not committed."""
        return False
