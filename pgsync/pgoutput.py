"""Decoder of pgoutput messages, the logical replication protocol of versions 1 to 4.

One table leads from the tag byte to the function that reads the rest. Layouts:
https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html

Invariants:

- Malformed input raises DecodeError and nothing else: short or long messages, unknown tags and
  kinds, names that are not UTF-8.
- What is allocated is bounded by the size of the message: no length field is believed before its
  bytes are there.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import cast

from .cursor import Cursor
from .errors import DecodeError
from .messages import (
    Begin,
    BeginPrepare,
    Commit,
    CommitPrepared,
    Delete,
    Insert,
    Message,
    OldKind,
    Origin,
    PgOutputMessage,
    Prepare,
    Relation,
    RelationColumn,
    ReplicaIdentity,
    RollbackPrepared,
    StreamAbort,
    StreamCommit,
    StreamPrepare,
    StreamStart,
    StreamStop,
    Truncate,
    TupleData,
    TupleValue,
    Type,
    Update,
)

_LSN_TIME_XID = Struct(">QqI")
_LSN_LSN_TIME = Struct(">QQq")
_LSN_LSN_TIME_XID = Struct(">QQqI")
_LSN_LSN_TIME_TIME_XID = Struct(">QQqqI")
_LSN_TIME = Struct(">Qq")
_LSN = Struct(">Q")
_OID_TYPMOD = Struct(">Ii")
_XID_XID = Struct(">II")

_NULL, _UNCHANGED = TupleValue("n"), TupleValue("u")


def decode(payload: bytes | memoryview, *, in_stream: bool) -> PgOutputMessage:
    """Return the message that ``payload`` (an XLogData message without its header) holds.

    ``in_stream`` says whether it came between StreamStart and StreamStop: there Relation, Type,
    Insert, Update, Delete, Truncate and Message carry a transaction id first. Raises DecodeError.
    """
    data = bytes(payload)
    reader = _READERS.get(data[:1])
    if reader is None:
        raise DecodeError("pgoutput", 0, "an unknown or missing message tag")
    name, read = reader
    cursor = Cursor(name, data, 1)
    xid = cursor.u32() if in_stream and data[:1] in _TAGS_WITH_XID else None
    message = read(cursor, xid)
    cursor.finish()
    return message


def _begin(cursor: Cursor, _xid: int | None) -> Begin:
    return Begin(*cursor.unpack(_LSN_TIME_XID))


def _commit(cursor: Cursor, _xid: int | None) -> Commit:
    _no_flags(cursor)
    return Commit(*cursor.unpack(_LSN_LSN_TIME))


def _no_flags(cursor: Cursor) -> None:
    if cursor.u8():
        raise cursor.error("flags are set that have no meaning yet")


def _origin(cursor: Cursor, _xid: int | None) -> Origin:
    return Origin(cursor.unpack(_LSN)[0], cursor.text())


def _relation(cursor: Cursor, xid: int | None) -> Relation:
    relation_id, schema, table = cursor.u32(), cursor.text(), cursor.text()
    identity = chr(cursor.u8())
    if identity not in "dnfi":
        raise cursor.error("an unknown replica identity")
    columns = tuple(_relation_column(cursor) for _ in range(cursor.u16()))
    return Relation(relation_id, schema, table, cast(ReplicaIdentity, identity), columns, xid)


def _relation_column(cursor: Cursor) -> RelationColumn:
    in_key, name = bool(cursor.u8() & 1), cursor.text()
    type_oid, type_modifier = cursor.unpack(_OID_TYPMOD)
    return RelationColumn(name, type_oid, type_modifier, in_key)


def _type(cursor: Cursor, xid: int | None) -> Type:
    return Type(cursor.u32(), cursor.text(), cursor.text(), xid)


def _insert(cursor: Cursor, xid: int | None) -> Insert:
    relation_id = cursor.u32()
    _expect_new(cursor, cursor.u8())
    return Insert(relation_id, _tuple_data(cursor), xid)


def _update(cursor: Cursor, xid: int | None) -> Update:
    relation_id, marker = cursor.u32(), chr(cursor.u8())
    if marker not in "KO":
        _expect_new(cursor, ord(marker))
        return Update(relation_id, None, None, _tuple_data(cursor), xid)
    old = _tuple_data(cursor)
    _expect_new(cursor, cursor.u8())
    return Update(relation_id, cast(OldKind, marker), old, _tuple_data(cursor), xid)


def _delete(cursor: Cursor, xid: int | None) -> Delete:
    relation_id, marker = cursor.u32(), chr(cursor.u8())
    if marker not in "KO":
        raise cursor.error("an old row marked neither K nor O")
    return Delete(relation_id, cast(OldKind, marker), _tuple_data(cursor), xid)


def _expect_new(cursor: Cursor, marker: int) -> None:
    if marker != ord("N"):
        raise cursor.error("a new row that is not marked N")


def _tuple_data(cursor: Cursor) -> TupleData:
    return tuple(_tuple_value(cursor) for _ in range(cursor.u16()))


def _tuple_value(cursor: Cursor) -> TupleValue:
    match cursor.u8():
        case 0x62:
            return TupleValue("b", cursor.take(cursor.u32()))
        case 0x6E:
            return _NULL
        case 0x75:
            return _UNCHANGED
        case 0x74:
            return TupleValue("t", cursor.take(cursor.u32()))
        case _:
            raise cursor.error("an unknown kind of column value")


def _truncate(cursor: Cursor, xid: int | None) -> Truncate:
    count, options = cursor.u32(), cursor.u8()
    packed = cursor.take(4 * count)
    relation_ids = tuple(int.from_bytes(packed[i : i + 4]) for i in range(0, 4 * count, 4))
    return Truncate(relation_ids, bool(options & 1), bool(options & 2), xid)


def _message(cursor: Cursor, xid: int | None) -> Message:
    flags, lsn, prefix = cursor.u8(), cursor.unpack(_LSN)[0], cursor.text()
    return Message(bool(flags & 1), lsn, prefix, cursor.take(cursor.u32()), xid)


def _stream_start(cursor: Cursor, _xid: int | None) -> StreamStart:
    return StreamStart(cursor.u32(), bool(cursor.u8()))


def _stream_stop(_cursor: Cursor, _xid: int | None) -> StreamStop:
    return StreamStop()


def _stream_commit(cursor: Cursor, _xid: int | None) -> StreamCommit:
    xid = cursor.u32()
    _no_flags(cursor)
    return StreamCommit(xid, *cursor.unpack(_LSN_LSN_TIME))


def _stream_abort(cursor: Cursor, _xid: int | None) -> StreamAbort:
    xid, subxid = cursor.unpack(_XID_XID)
    if cursor.offset == len(cursor.data):
        return StreamAbort(xid, subxid)
    return StreamAbort(xid, subxid, *cursor.unpack(_LSN_TIME))


def _begin_prepare(cursor: Cursor, _xid: int | None) -> BeginPrepare:
    lsn, end_lsn, time_us, xid = cursor.unpack(_LSN_LSN_TIME_XID)
    return BeginPrepare(lsn, end_lsn, time_us, xid, cursor.text())


def _prepare(cursor: Cursor, _xid: int | None) -> Prepare:
    _no_flags(cursor)
    lsn, end_lsn, time_us, xid = cursor.unpack(_LSN_LSN_TIME_XID)
    return Prepare(lsn, end_lsn, time_us, xid, cursor.text())


def _commit_prepared(cursor: Cursor, _xid: int | None) -> CommitPrepared:
    _no_flags(cursor)
    lsn, end_lsn, time_us, xid = cursor.unpack(_LSN_LSN_TIME_XID)
    return CommitPrepared(lsn, end_lsn, time_us, xid, cursor.text())


def _rollback_prepared(cursor: Cursor, _xid: int | None) -> RollbackPrepared:
    _no_flags(cursor)
    prepare_end, rollback_end, prepare_us, rollback_us, xid = cursor.unpack(_LSN_LSN_TIME_TIME_XID)
    return RollbackPrepared(prepare_end, rollback_end, prepare_us, rollback_us, xid, cursor.text())


def _stream_prepare(cursor: Cursor, _xid: int | None) -> StreamPrepare:
    _no_flags(cursor)
    lsn, end_lsn, time_us, xid = cursor.unpack(_LSN_LSN_TIME_XID)
    return StreamPrepare(lsn, end_lsn, time_us, xid, cursor.text())


_TAGS_WITH_XID = frozenset({b"R", b"Y", b"I", b"U", b"D", b"T", b"M"})

_READERS: dict[bytes, tuple[str, Callable[[Cursor, int | None], PgOutputMessage]]] = {
    b"B": ("Begin", _begin),
    b"C": ("Commit", _commit),
    b"O": ("Origin", _origin),
    b"R": ("Relation", _relation),
    b"Y": ("Type", _type),
    b"I": ("Insert", _insert),
    b"U": ("Update", _update),
    b"D": ("Delete", _delete),
    b"T": ("Truncate", _truncate),
    b"M": ("Message", _message),
    b"S": ("Stream Start", _stream_start),
    b"E": ("Stream Stop", _stream_stop),
    b"c": ("Stream Commit", _stream_commit),
    b"A": ("Stream Abort", _stream_abort),
    b"b": ("Begin Prepare", _begin_prepare),
    b"P": ("Prepare", _prepare),
    b"K": ("Commit Prepared", _commit_prepared),
    b"r": ("Rollback Prepared", _rollback_prepared),
    b"p": ("Stream Prepare", _stream_prepare),
}
