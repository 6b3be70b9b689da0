"""Journal: every change batch of one index, fsynced before it is acknowledged.

Invariants:

- Records have consecutive sequence numbers; segments hold consecutive ranges of them.
- When ``sync(seq)`` has returned, the records up to ``seq`` survive a power cut.
- Opening removes a torn last record and nothing else; other damage raises JournalCorrupt.
- A failed append leaves the journal as it was. A failed fsync closes it for good: the kernel may
  have dropped the pages, so a second fsync would promise what it cannot know.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from .disk import size_of, storage_errors, sync_directory
from .errors import BadBatch, JournalCorrupt, StorageError
from .journal_format import (
    MAX_PAYLOAD_BYTES,
    SEGMENT_HEADER_BYTES,
    Record,
    RecordKind,
    record_header,
    scan,
    segment_header,
)

#: A segment is read whole at start and dropped whole after a snapshot.
DEFAULT_SEGMENT_BYTES = 64 << 20
_SUFFIX = ".journal"


class Journal:
    """An append-only log in a directory of segment files. Any thread may call any method."""

    def __init__(self, path: Path, *, segment_bytes: int = DEFAULT_SEGMENT_BYTES) -> None:
        """Open or make the journal; raise JournalCorrupt or StorageError."""
        self._path, self._segment_bytes = path, segment_bytes
        self._append_lock, self._sync_lock = Lock(), Lock()
        self._broken: str | None = None
        with storage_errors("opening the journal"):
            path.mkdir(exist_ok=True)
            self._firsts = sorted(int(file.stem) for file in path.glob(f"*{_SUFFIX}"))
            self._appended, self._end = self._recover()
            self._descriptor = os.open(self._segment(self._firsts[-1]), os.O_WRONLY)
            os.ftruncate(self._descriptor, self._end)
            os.fsync(self._descriptor)
        self._synced = self._appended

    @property
    def first_seq(self) -> int:
        """Sequence number of the oldest record kept."""
        return self._firsts[0]

    @property
    def next_seq(self) -> int:
        """Sequence number that the next record gets."""
        return self._appended + 1

    def bytes_on_disk(self) -> int:
        """Return the size of all segments."""
        return size_of(self._path.glob(f"*{_SUFFIX}"))

    def append(self, kind: RecordKind, payload: bytes | memoryview) -> int:
        """Write one record and return its sequence number; not durable before ``sync``.

        Raises StorageFull or StorageError; the journal is then as it was.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise BadBatch("a change batch is smaller than 4 GiB")
        with self._append_lock:
            self._check()
            with storage_errors("writing the journal"):
                if self._end >= self._segment_bytes:
                    self._rotate()
                seq = self._appended + 1
                self._write(record_header(seq, self._synced, kind, payload), payload)
            self._appended = seq
            return seq

    def sync(self, seq: int) -> None:
        """Make the records up to ``seq`` durable. One fsync serves every thread that waits."""
        with self._sync_lock:
            if self._synced >= seq:
                return
            self._check()
            self._flush()

    def replay(self, from_seq: int) -> Iterator[Record]:
        """Yield the records from ``from_seq`` on; raise JournalCorrupt when some are missing."""
        if from_seq < self.first_seq or from_seq > self.next_seq:
            raise JournalCorrupt(f"the journal does not hold record {from_seq}")
        for first, following in zip(self._firsts, [*self._firsts[1:], self.next_seq], strict=True):
            if following > from_seq:
                records, _ = self._read(first)
                yield from (record for record in records if record.seq >= from_seq)

    def drop_before(self, seq: int) -> None:
        """Delete the segments whose records are all below ``seq``, never the one written to."""
        with self._append_lock, storage_errors("dropping old journal segments"):
            while len(self._firsts) > 1 and self._firsts[1] <= seq:
                self._segment(self._firsts[0]).unlink()
                del self._firsts[0]
            sync_directory(self._path)

    def close(self) -> None:
        """Sync and close; later calls raise StorageError. Closing twice is harmless."""
        with self._append_lock, self._sync_lock:
            if self._descriptor < 0:
                return
            try:
                os.fsync(self._descriptor)
            finally:
                os.close(self._descriptor)
                self._descriptor, self._broken = -1, "it is closed"

    def _segment(self, first_seq: int) -> Path:
        return self._path / f"{first_seq:020d}{_SUFFIX}"

    def _check(self) -> None:
        if self._broken is not None:
            raise StorageError(f"the journal takes no more records: {self._broken}")

    def _read(self, first_seq: int) -> tuple[list[Record], int]:
        with storage_errors("reading the journal"):
            data = self._segment(first_seq).read_bytes()
        return scan(memoryview(data), first_seq)

    def _recover(self) -> tuple[int, int]:
        """Check every segment; return the last good seq and where it ends in the last segment."""
        if not self._firsts:
            self._firsts = [1]
            self._create(1)
        for first, following in zip(self._firsts, [*self._firsts[1:], None], strict=True):
            records, end = self._read(first)
            last = first + len(records) - 1
            if following is not None and last + 1 != following:
                raise JournalCorrupt(f"journal record {last + 1} is missing")
        if end < SEGMENT_HEADER_BYTES:  # the power went while the segment was being made
            self._segment(first).unlink()
            self._create(first)
            end = SEGMENT_HEADER_BYTES
        return last, end

    def _create(self, first_seq: int) -> None:
        path = self._segment(first_seq)
        try:
            with path.open("xb") as file:
                file.write(segment_header(first_seq))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise
        sync_directory(self._path)

    def _rotate(self) -> None:
        """Sync and close the segment, start the next one."""
        first = self._appended + 1
        with self._sync_lock:
            self._flush()
            self._create(first)
            descriptor = os.open(self._segment(first), os.O_WRONLY)
            os.close(self._descriptor)
            self._descriptor, self._end = descriptor, SEGMENT_HEADER_BYTES
            self._firsts.append(first)

    def _flush(self) -> None:
        target = self._appended  # read before the call: what is appended meanwhile may miss it
        try:
            with storage_errors("syncing the journal"):
                os.fdatasync(self._descriptor)
        except StorageError as error:
            self._broken = str(error)
            raise
        self._synced = target

    def _write(self, header: bytes, payload: bytes | memoryview) -> None:
        parts = [memoryview(header), memoryview(payload)]
        offset = self._end
        try:
            for part in parts:
                while len(part):
                    written = os.pwrite(self._descriptor, part, offset)
                    offset, part = offset + written, part[written:]  # noqa: PLW2901
        except OSError:
            self._take_back()
            raise
        self._end = offset

    def _take_back(self) -> None:
        """Remove half a record; if even that fails, nothing may follow it."""
        try:
            os.ftruncate(self._descriptor, self._end)
        except OSError as error:
            self._broken = error.strerror or "truncating failed"
