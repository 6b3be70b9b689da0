"""Writes what Postgres sends: pgoutput messages, COPY tuples and binary values.

Written from the protocol's documentation, apart from the decoders that it tests.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import numpy as np

from pgsync import messages as m

_ELEMENT_OIDS = {"int2": 21, "int4": 23, "int8": 20, "text": 25, "float4": 700, "float8": 701}
_FORMATS = {
    "bool": ">?",
    "int2": ">h",
    "int4": ">i",
    "int8": ">q",
    "float4": ">f",
    "float8": ">d",
    "timestamptz": ">q",
    "timestamp": ">q",
    "date": ">i",
}


def value_bytes(type_name: str, value: Any) -> bytes:
    """Return the binary form of a value that is not NULL."""
    if type_name.endswith("[]"):
        element_type = type_name.removesuffix("[]")
        return array_bytes(element_type, value, (len(value),) if len(value) else ())
    if type_name == "text":
        return str(value).encode()
    if type_name == "uuid":
        return value.bytes if isinstance(value, UUID) else bytes(value)
    if type_name in _VECTORS:
        return _VECTORS[type_name](value)
    return struct.pack(_FORMATS[type_name], value)


def array_bytes(element_type: str, elements: Sequence[Any], dimensions: Sequence[int]) -> bytes:
    """Return an array of the given dimensions, elements in storage order, None for NULL."""
    has_nulls = any(element is None for element in elements)
    head = struct.pack(">iiI", len(dimensions), has_nulls, _ELEMENT_OIDS[element_type])
    bounds = b"".join(struct.pack(">ii", length, 1) for length in dimensions)
    return head + bounds + b"".join(sized(element_type, element) for element in elements)


def sized(type_name: str, value: Any) -> bytes:
    """Return a value with its length before it, as in arrays and COPY tuples."""
    if value is None:
        return struct.pack(">i", -1)
    data = value if isinstance(value, bytes) else value_bytes(type_name, value)
    return struct.pack(">i", len(data)) + data


def vector_bytes(components: Sequence[float]) -> bytes:
    return struct.pack(">HH", len(components), 0) + np.asarray(components, ">f4").tobytes()


def halfvec_bytes(components: Sequence[float]) -> bytes:
    return struct.pack(">HH", len(components), 0) + np.asarray(components, ">f2").tobytes()


def sparsevec_bytes(components: Sequence[float]) -> bytes:
    dense = np.asarray(components, ">f4")
    indices = np.flatnonzero(dense)
    head = struct.pack(">iii", len(dense), len(indices), 0)
    return head + indices.astype(">i4").tobytes() + dense[indices].tobytes()


_VECTORS: dict[str, Callable[[Sequence[float]], bytes]] = {
    "vector": vector_bytes,
    "halfvec": halfvec_bytes,
    "sparsevec": sparsevec_bytes,
}


def copy_tuple(types: Sequence[str], values: Sequence[Any]) -> bytes:
    """Return one COPY binary tuple; values given as bytes are taken as they are."""
    fields = [sized(t, v) for t, v in zip(types, values, strict=True)]
    return struct.pack(">h", len(fields)) + b"".join(fields)


def message_bytes(message: m.PgOutputMessage) -> bytes:
    """Return a message as pgoutput writes it."""
    tag, write = _WRITERS[type(message)]
    xid = getattr(message, "xid", None) if tag in b"RYIUDTM" else None
    return tag + (b"" if xid is None else struct.pack(">I", xid)) + write(message)


def _text(text: str) -> bytes:
    return text.encode() + b"\0"


def _tuple(values: m.TupleData) -> bytes:
    return struct.pack(">H", len(values)) + b"".join(_tuple_value(value) for value in values)


def _tuple_value(value: m.TupleValue) -> bytes:
    kind = value.kind.encode()
    return kind if kind in b"nu" else kind + struct.pack(">I", len(value.data)) + value.data


def _relation(r: m.Relation) -> bytes:
    head = struct.pack(">I", r.relation_id) + _text(r.schema) + _text(r.table)
    columns = b"".join(
        bytes([c.in_key]) + _text(c.name) + struct.pack(">Ii", c.type_oid, c.type_modifier)
        for c in r.columns
    )
    return head + r.replica_identity.encode() + struct.pack(">H", len(r.columns)) + columns


def _update(u: m.Update) -> bytes:
    old = b"" if u.old_kind is None or u.old is None else u.old_kind.encode() + _tuple(u.old)
    return struct.pack(">I", u.relation_id) + old + b"N" + _tuple(u.new)


def _truncate(t: m.Truncate) -> bytes:
    options = t.cascade | t.restart_identity << 1
    ids = struct.pack(f">{len(t.relation_ids)}I", *t.relation_ids)
    return struct.pack(">IB", len(t.relation_ids), options) + ids


def _stream_abort(a: m.StreamAbort) -> bytes:
    late = b"" if a.abort_lsn is None else struct.pack(">Qq", a.abort_lsn, a.abort_time_us)
    return struct.pack(">II", a.xid, a.subxid) + late


def _prepare(p: m.BeginPrepare | m.Prepare | m.StreamPrepare) -> bytes:
    return struct.pack(">QQqI", p.prepare_lsn, p.end_lsn, p.prepare_time_us, p.xid) + _text(p.gid)


def _rollback_prepared(r: m.RollbackPrepared) -> bytes:
    lsns = (r.prepare_end_lsn, r.rollback_end_lsn)
    return struct.pack(">QQqqI", *lsns, r.prepare_time_us, r.rollback_time_us, r.xid) + _text(r.gid)


_WRITERS: dict[type, tuple[bytes, Callable[[Any], bytes]]] = {
    m.Begin: (b"B", lambda b: struct.pack(">QqI", b.final_lsn, b.commit_time_us, b.xid)),
    m.Commit: (
        b"C",
        lambda c: struct.pack(">BQQq", 0, c.commit_lsn, c.end_lsn, c.commit_time_us),
    ),
    m.Origin: (b"O", lambda o: struct.pack(">Q", o.commit_lsn) + _text(o.name)),
    m.Relation: (b"R", _relation),
    m.Type: (b"Y", lambda y: struct.pack(">I", y.type_oid) + _text(y.schema) + _text(y.name)),
    m.Insert: (b"I", lambda i: struct.pack(">I", i.relation_id) + b"N" + _tuple(i.new)),
    m.Update: (b"U", _update),
    m.Delete: (
        b"D",
        lambda d: struct.pack(">I", d.relation_id) + d.old_kind.encode() + _tuple(d.old),
    ),
    m.Truncate: (b"T", _truncate),
    m.Message: (
        b"M",
        lambda x: (
            struct.pack(">BQ", x.transactional, x.lsn)
            + _text(x.prefix)
            + struct.pack(">I", len(x.content))
            + x.content
        ),
    ),
    m.StreamStart: (b"S", lambda s: struct.pack(">IB", s.xid, s.first_segment)),
    m.StreamStop: (b"E", lambda _: b""),
    m.StreamCommit: (
        b"c",
        lambda c: struct.pack(">IBQQq", c.xid, 0, c.commit_lsn, c.end_lsn, c.commit_time_us),
    ),
    m.StreamAbort: (b"A", _stream_abort),
    m.BeginPrepare: (b"b", _prepare),
    m.Prepare: (b"P", lambda p: b"\0" + _prepare(p)),
    m.CommitPrepared: (
        b"K",
        lambda c: (
            struct.pack(">BQQqI", 0, c.commit_lsn, c.end_lsn, c.commit_time_us, c.xid)
            + _text(c.gid)
        ),
    ),
    m.RollbackPrepared: (b"r", lambda r: b"\0" + _rollback_prepared(r)),
    m.StreamPrepare: (b"p", lambda p: b"\0" + _prepare(p)),
}
