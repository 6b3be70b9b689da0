"""ChangeBatch: the contract between the sidecar and the index server, as one Arrow IPC stream.

A batch carries row changes of one mirrored column in commit order. Invariants:

- A change is identified by (commit_lsn, ordinal); both sides count ordinals the same way after a
  restart, so a change that arrives twice is recognised and dropped.
- Every change with commit_lsn below ``watermark_lsn`` has been sent in this batch or before it.
  Changes at or above the watermark belong to a transaction that is not complete yet: the server
  keeps them aside, so that a transaction becomes visible whole or not at all.
- ``epoch`` grows with each copy of the table; a batch of an older epoch is refused.

Row columns of the Arrow schema (n rows):

    op           uint8     Op
    commit_lsn   uint64    start of the commit record; for copied rows the slot's consistent point
    ordinal      uint32    zero-based position of the change in its transaction
    vector_state uint8     VectorState
    vector       fixed_size_list<float32|float16>[d], null unless vector_state is PRESENT
    unchanged    uint64    bit i set: filter column i was not sent (unchanged TOAST): keep it
    key:<name>   the new key           old:<name>  the key before a key change, null otherwise
    col:<name>   filter columns

Arrow types per column type are in ARROW_TYPES. Schema metadata holds the batch's own fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

import pyarrow as pa

from .table import TableSpec


class Op(IntEnum):
    """What happened to a row. An UPSERT carries the row after an INSERT or UPDATE."""

    UPSERT = 1
    DELETE = 2
    TRUNCATE = 3  # all keys are null; every row committed before is gone


class VectorState(IntEnum):
    """Why a change has a vector or has none. Rows without a valid vector are not in the index."""

    PRESENT = 0
    UNCHANGED = 1  # unchanged TOAST: the index keeps the vector it has
    NULL = 2
    WRONG_DIMENSION = 3
    NOT_FINITE = 4


class BatchKind(Enum):
    """What a batch means for the index as a whole."""

    COPY_BEGIN = "copy_begin"  # no rows: start epoch ``epoch`` with an empty table
    COPY = "copy"  # copied rows; not visible before COPY_END
    COPY_END = "copy_end"  # no rows: the copy is complete as of ``watermark_lsn``
    CHANGES = "changes"  # rows of the stream, possibly none: then only the watermark moves


#: Arrow type of each canonical column type. Times keep Postgres' own integers, so that infinity
#: stays exact: timestamptz and timestamp are microseconds, date is days, all since 2000-01-01.
ARROW_TYPES: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "text": pa.utf8(),
    "timestamptz": pa.int64(),
    "timestamp": pa.int64(),
    "date": pa.int32(),
    "uuid": pa.binary(16),
    "int2[]": pa.list_(pa.int16()),
    "int4[]": pa.list_(pa.int32()),
    "int8[]": pa.list_(pa.int64()),
    "text[]": pa.list_(pa.utf8()),
}


#: An Arrow stream ends with a continuation marker and a length of zero.
#: https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format
_END_OF_STREAM_BYTES = 8


def vector_element_type(table: TableSpec) -> pa.DataType:
    """float16 for halfvec columns, whose values it holds exactly; float32 for all others."""
    return pa.float16() if table.vector_type == "halfvec" else pa.float32()


def change_schema(table: TableSpec) -> pa.Schema:
    """Return the Arrow schema of a table's changes, without batch metadata."""
    fields = [
        pa.field("op", pa.uint8(), nullable=False),
        pa.field("commit_lsn", pa.uint64(), nullable=False),
        pa.field("ordinal", pa.uint32(), nullable=False),
        pa.field("vector_state", pa.uint8(), nullable=False),
        pa.field("vector", pa.list_(vector_element_type(table), table.dim)),
        pa.field("unchanged", pa.uint64(), nullable=False),
    ]
    fields += [pa.field(f"key:{c.name}", ARROW_TYPES[c.type]) for c in table.key]
    fields += [pa.field(f"old:{c.name}", ARROW_TYPES[c.type]) for c in table.key]
    fields += [pa.field(f"col:{c.name}", ARROW_TYPES[c.type]) for c in table.columns]
    return pa.schema(fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeBatch:
    """Changes of one mirrored column in commit order, and how far the stream is with them.

    ``source_lsn`` is the newest position the source is known to have reached (for lag figures);
    ``system_id`` is Postgres' system identifier, so that LSNs of two clusters never mix.
    ``rows_total`` is the estimated size of the table during a copy, for progress.
    """

    kind: BatchKind
    epoch: int
    watermark_lsn: int
    source_lsn: int
    system_id: str
    rows: pa.RecordBatch
    rows_total: int = 0

    def to_ipc(self) -> bytes:
        """Return the batch as one Arrow IPC stream."""
        return self.to_ipc_buffer().to_pybytes()

    def to_ipc_buffer(self) -> pa.Buffer:
        """Return what ``to_ipc`` returns, written once into memory of the right size."""
        rows = self.rows.replace_schema_metadata(
            {
                "vecmirror.kind": self.kind.value,
                "vecmirror.epoch": str(self.epoch),
                "vecmirror.watermark_lsn": str(self.watermark_lsn),
                "vecmirror.source_lsn": str(self.source_lsn),
                "vecmirror.system_id": self.system_id,
                "vecmirror.rows_total": str(self.rows_total),
            }
        )
        size = rows.schema.serialize().size + pa.ipc.get_record_batch_size(rows)
        buffer = pa.allocate_buffer(size + _END_OF_STREAM_BYTES)
        sink = pa.FixedSizeBufferWriter(buffer)
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_batch(rows)
        return buffer.slice(0, sink.tell())

    @classmethod
    def from_ipc(cls, body: bytes | memoryview) -> ChangeBatch:
        """Read a batch; raise ValueError when the body is not one."""
        try:
            with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
                rows = reader.read_next_batch()
                rows.validate(full=True)
            found = {k.decode(): v.decode() for k, v in (rows.schema.metadata or {}).items()}
            return cls(
                kind=BatchKind(found["vecmirror.kind"]),
                epoch=int(found["vecmirror.epoch"]),
                watermark_lsn=int(found["vecmirror.watermark_lsn"]),
                source_lsn=int(found["vecmirror.source_lsn"]),
                system_id=found["vecmirror.system_id"],
                rows_total=int(found["vecmirror.rows_total"]),
                rows=rows.replace_schema_metadata(None),
            )
        except (pa.ArrowException, OSError, KeyError, StopIteration, UnicodeDecodeError) as error:
            # Arrow calls some malformed streams an OSError.
            raise ValueError("the body is not a Vecmirror change batch") from error
