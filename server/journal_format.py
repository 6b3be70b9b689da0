"""The bytes of a journal segment. Pure: bytes in, records out.

A segment is a header and records, one after the other, all little-endian:

    segment   magic "VMJS" · u32 version · u64 seq of its first record · u64 xxh64 of these 16 bytes
    record    magic "VMJR" · u64 xxh64 of everything after it · u64 seq · u64 synced · u32 length
              · u8 kind · 3 zero bytes · payload[length]

``synced`` is the highest seq that was known to be on disk when the record was written. It tells a
torn write from damage: a bad record is torn when no later record claims that it was synced.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import xxhash

from .errors import JournalCorrupt

_SEGMENT = struct.Struct("<4sIQ")
_CHECKSUM = struct.Struct("<Q")
_RECORD = struct.Struct("<4sQQQIB3x")
_SEGMENT_MAGIC, _RECORD_MAGIC = b"VMJS", b"VMJR"
_VERSION = 1
#: Bytes before the checksummed part of a record: its magic and the checksum itself.
_UNCHECKED = 12

SEGMENT_HEADER_BYTES = _SEGMENT.size + _CHECKSUM.size
RECORD_HEADER_BYTES = _RECORD.size
MAX_PAYLOAD_BYTES = 0xFFFF_FFFF


class RecordKind(IntEnum):
    """What a record's payload is: a change batch, by its kind."""

    COPY_BEGIN = 1
    COPY = 2
    COPY_END = 3
    CHANGES = 4


@dataclass(frozen=True, slots=True)
class Record:
    """One record; ``payload`` is a view into the segment's bytes."""

    seq: int
    synced: int
    kind: RecordKind
    payload: memoryview

    @property
    def size(self) -> int:
        """Bytes the record takes in the segment."""
        return RECORD_HEADER_BYTES + len(self.payload)


def segment_header(first_seq: int) -> bytes:
    """Return the header of a segment that starts with record ``first_seq``."""
    head = _SEGMENT.pack(_SEGMENT_MAGIC, _VERSION, first_seq)
    return head + _CHECKSUM.pack(xxhash.xxh64_intdigest(head))


def record_header(seq: int, synced: int, kind: RecordKind, payload: bytes | memoryview) -> bytes:
    """Return the bytes that go before ``payload``."""
    checked = _RECORD.pack(_RECORD_MAGIC, 0, seq, synced, len(payload), kind)[_UNCHECKED:]
    return _RECORD_MAGIC + _CHECKSUM.pack(_digest(checked, payload)) + checked


def read_record(data: memoryview, offset: int) -> Record | None:
    """Return the record that starts at ``offset``, or None when it is incomplete or damaged."""
    start = offset + RECORD_HEADER_BYTES
    if start > len(data):
        return None
    magic, checksum, seq, synced, length, kind = _RECORD.unpack_from(data, offset)
    if magic != _RECORD_MAGIC or start + length > len(data):
        return None
    payload = data[start : start + length]
    if _digest(data[offset + _UNCHECKED : start], payload) != checksum:
        return None
    return Record(seq, synced, RecordKind(kind), payload)


def scan(data: memoryview, first_seq: int) -> tuple[list[Record], int]:
    """Return the good records of a segment and the offset where they end.

    Bytes beyond that offset are a torn write. Raises JournalCorrupt when they are damage instead:
    when the header or a record that was once synced is not what was written.
    """
    header_good = bytes(data[:SEGMENT_HEADER_BYTES]) == segment_header(first_seq)
    records: list[Record] = []
    offset = SEGMENT_HEADER_BYTES if header_good else 0
    expected = first_seq
    while header_good and (record := read_record(data, offset)) and record.seq == expected:
        records.append(record)
        offset += record.size
        expected += 1
    if offset < len(data) and _is_damage(data, offset, expected):
        raise JournalCorrupt(f"journal record {expected} is damaged")
    return records, offset


def _is_damage(data: memoryview, offset: int, expected: int) -> bool:
    """Tell whether a good record beyond ``offset`` proves that ``expected`` was once synced.

    A later record with a smaller ``synced`` proves nothing: pages of one unsynced stretch reach
    the disk in any order.
    """
    raw = bytes(data[offset:])
    found = raw.find(_RECORD_MAGIC)
    while found >= 0:
        record = read_record(data, offset + found)
        # The record at ``expected`` itself can be good only behind a damaged segment header,
        # which is synced before any record is written.
        if record and (record.synced >= expected or record.seq == expected or found == 0):
            return True
        found = raw.find(_RECORD_MAGIC, found + 1)
    return False


def _digest(checked: bytes | memoryview, payload: bytes | memoryview) -> int:
    digest = xxhash.xxh64(checked)
    digest.update(payload)
    return digest.intdigest()
