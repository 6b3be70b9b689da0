"""The journal gives back every synced record, and says so when it cannot."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from server.errors import JournalCorrupt, StorageError
from server.journal import Journal
from server.journal_format import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    RecordKind,
    read_record,
    record_header,
    scan,
    segment_header,
)

PAYLOADS = [b"first", b"", b"third, and longer", b"VMJR is in the payload too"]


def written(path: Path, payloads: list[bytes], segment_bytes: int = 1 << 20) -> Journal:
    """Return a journal with one synced record per payload."""
    journal = Journal(path, segment_bytes=segment_bytes)
    for payload in payloads:
        journal.sync(journal.append(RecordKind.CHANGES, payload))
    return journal


def payloads(journal: Journal, from_seq: int = 1) -> list[bytes]:
    return [bytes(record.payload) for record in journal.replay(from_seq)]


def reopened(path: Path) -> list[bytes]:
    journal = Journal(path)
    try:
        return payloads(journal)
    finally:
        journal.close()


def segments(path: Path) -> list[Path]:
    return sorted(path.glob("*.journal"))


def test_records_come_back_in_order_with_their_kinds(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for kind in RecordKind:
        journal.append(kind, kind.name.encode())
    journal.close()
    again = Journal(tmp_path / "j")
    records = [(r.seq, r.kind, bytes(r.payload)) for r in again.replay(1)]
    assert records == [(n, k, k.name.encode()) for n, k in enumerate(RecordKind, 1)]
    assert again.next_seq == 5
    again.close()


def test_segments_hold_consecutive_ranges(tmp_path: Path) -> None:
    journal = written(tmp_path / "j", [bytes([n]) * 50 for n in range(20)], segment_bytes=300)
    assert len(segments(tmp_path / "j")) > 3
    assert payloads(journal) == [bytes([n]) * 50 for n in range(20)]
    assert payloads(journal, 15) == [bytes([n]) * 50 for n in range(14, 20)]
    journal.close()
    assert len(reopened(tmp_path / "j")) == 20


def test_dropping_keeps_every_record_from_the_given_one(tmp_path: Path) -> None:
    journal = written(tmp_path / "j", [bytes([n]) * 50 for n in range(20)], segment_bytes=300)
    journal.drop_before(12)
    assert 1 < journal.first_seq <= 12
    assert payloads(journal, 12) == [bytes([n]) * 50 for n in range(11, 20)]
    with pytest.raises(JournalCorrupt, match="does not hold record 1"):
        payloads(journal, 1)
    journal.drop_before(1000)
    assert payloads(journal, journal.next_seq) == []
    assert journal.append(RecordKind.COPY, b"on") == 21
    journal.close()


@pytest.mark.parametrize("segment_bytes", [1 << 20, 60])
def test_opening_after_a_cut_at_any_byte_keeps_every_whole_record(
    tmp_path: Path, segment_bytes: int
) -> None:
    written(tmp_path / "j", PAYLOADS, segment_bytes).close()
    last = segments(tmp_path / "j")[-1]
    data = last.read_bytes()
    ahead = len(PAYLOADS) - len(scan(memoryview(data), int(last.stem))[0])
    for length in range(len(data)):
        last.write_bytes(data[:length])
        whole = _whole_records(data[:length], int(last.stem))
        assert reopened(tmp_path / "j") == PAYLOADS[: ahead + whole]
        last.write_bytes(data)


@pytest.mark.parametrize("segment_bytes", [1 << 20, 60])
def test_a_changed_byte_loses_the_last_record_or_raises(tmp_path: Path, segment_bytes: int) -> None:
    written(tmp_path / "j", PAYLOADS, segment_bytes).close()
    for path in segments(tmp_path / "j"):
        data = path.read_bytes()
        for offset in range(len(data)):
            damaged = bytearray(data)
            damaged[offset] ^= 0x40
            path.write_bytes(damaged)
            _assert_found(tmp_path / "j", path, offset)
            path.write_bytes(data)


def test_bytes_after_the_last_record_are_removed(tmp_path: Path) -> None:
    written(tmp_path / "j", PAYLOADS).close()
    (segment,) = segments(tmp_path / "j")
    data = segment.read_bytes()
    for tail in (b"\0" * 100, b"VMJR", b"VMJR" + bytes(60), data[SEGMENT_HEADER_BYTES:][:40]):
        segment.write_bytes(data + tail)
        journal = Journal(tmp_path / "j")
        journal.sync(journal.append(RecordKind.CHANGES, b"next"))
        assert payloads(journal) == [*PAYLOADS, b"next"]
        journal.close()
        segment.write_bytes(data)


def test_an_unsynced_stretch_may_reach_the_disk_in_any_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.sync(journal.append(RecordKind.COPY_BEGIN, b"begin"))
    for _ in range(3):
        journal.append(RecordKind.COPY, b"copied" * 20)
    journal.close()
    (segment,) = segments(tmp_path / "j")
    data = bytearray(segment.read_bytes())
    hole = SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + 5
    data[hole : hole + 100] = bytes(100)  # the first unsynced record never reached the disk
    segment.write_bytes(data)
    assert reopened(tmp_path / "j") == [b"begin"]


def test_a_missing_segment_is_found(tmp_path: Path) -> None:
    written(tmp_path / "j", PAYLOADS, segment_bytes=60).close()
    segments(tmp_path / "j")[1].unlink()
    with pytest.raises(JournalCorrupt, match="missing"):
        Journal(tmp_path / "j")


def test_a_failed_sync_closes_the_journal_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = written(tmp_path / "j", PAYLOADS)
    seq = journal.append(RecordKind.CHANGES, b"unsure")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", fail)
        with pytest.raises(StorageError, match="syncing"):
            journal.sync(seq)
    with pytest.raises(StorageError, match="no more records"):
        journal.sync(seq)
    with pytest.raises(StorageError, match="no more records"):
        journal.append(RecordKind.CHANGES, b"")
    journal.close()


def test_a_failed_append_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    journal = written(tmp_path / "j", PAYLOADS)
    real, calls = os.pwrite, []

    def fail_later(descriptor: int, data: memoryview, offset: int) -> int:
        calls.append(offset)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:3], offset)

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", fail_later)
        with pytest.raises(StorageError, match="no space left"):
            journal.append(RecordKind.CHANGES, b"half of it")
    journal.sync(journal.append(RecordKind.CHANGES, b"whole"))
    assert payloads(journal) == [*PAYLOADS, b"whole"]
    journal.close()


def test_records_of_many_threads_are_all_there(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", segment_bytes=2000)

    def write(name: int) -> None:
        for number in range(25):
            journal.sync(journal.append(RecordKind.COPY, f"{name}.{number}".encode()))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    found = reopened(tmp_path / "j")
    assert sorted(found) == sorted(f"{a}.{b}".encode() for a in range(4) for b in range(25))
    for name in range(4):
        own = [p for p in found if p.startswith(f"{name}.".encode())]
        assert own == [f"{name}.{number}".encode() for number in range(25)]


def test_a_record_is_read_as_it_was_written() -> None:
    head = record_header(7, 5, RecordKind.COPY_END, b"payload")
    data = memoryview(b"xx" + head + b"payload" + b"yy")
    record = read_record(data, 2)
    assert record is not None
    assert (record.seq, record.synced, record.kind) == (7, 5, RecordKind.COPY_END)
    assert bytes(record.payload) == b"payload"
    assert record.size == len(head) + 7
    assert read_record(data, 1) is None
    assert read_record(data[:-3], 2) is None


def _whole_records(data: bytes, first: int) -> int:
    if data[:SEGMENT_HEADER_BYTES] != segment_header(first):
        return 0
    count, offset = 0, SEGMENT_HEADER_BYTES
    while (record := read_record(memoryview(data), offset)) is not None:
        count, offset = count + 1, offset + record.size
    return count


def _assert_found(directory: Path, path: Path, offset: int) -> None:
    """Check that damage in the last record is taken for a torn write, and any other raises."""
    last_segment = path == segments(directory)[-1]
    records, _ = scan(memoryview(_undamaged(path, offset)), int(path.stem))
    start_of_last = SEGMENT_HEADER_BYTES + sum(record.size for record in records[:-1])
    if last_segment and offset >= start_of_last:
        assert reopened(directory) == PAYLOADS[:-1]
    else:
        with pytest.raises(JournalCorrupt):
            Journal(directory)


def _undamaged(path: Path, offset: int) -> bytes:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x40
    return bytes(data)
