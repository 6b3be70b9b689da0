"""The messages of Postgres' logical replication protocol, versions 1 to 4, as plain values.

Field for field what https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
lists. LSNs are byte positions, times microseconds since 2000-01-01 UTC. ``xid`` of a message that
can occur inside a streamed transaction is the (sub)transaction that made the change there, and None
outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: 'n' NULL, 'u' unchanged TOASTed value that was not sent, 't' text form, 'b' binary form.
ValueKind = Literal["n", "u", "t", "b"]
#: 'd' default (primary key), 'n' nothing, 'f' full row, 'i' a unique index.
ReplicaIdentity = Literal["d", "n", "f", "i"]
#: 'K' only the replica identity's columns are filled in, 'O' the whole old row.
OldKind = Literal["K", "O"]


@dataclass(frozen=True, slots=True)
class TupleValue:
    """One column of a row; ``data`` is empty for the kinds that carry none."""

    kind: ValueKind
    data: bytes = b""


TupleData = tuple[TupleValue, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """A committed transaction starts; ``final_lsn`` is its commit LSN."""

    final_lsn: int
    commit_time_us: int
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The transaction is complete; ``end_lsn`` lies just after its commit record."""

    commit_lsn: int
    end_lsn: int
    commit_time_us: int


@dataclass(frozen=True, slots=True)
class Origin:
    """The transaction came to the source through replication itself."""

    commit_lsn: int
    name: str


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """A column of a relation; ``in_key`` says whether it belongs to the replica identity."""

    name: str
    type_oid: int
    type_modifier: int
    in_key: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """The shape of a table from here on. An empty ``schema`` stands for pg_catalog."""

    relation_id: int
    schema: str
    table: str
    replica_identity: ReplicaIdentity
    columns: tuple[RelationColumn, ...]
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class Type:
    """Name of a type that is not built in; for a domain the name of its base type."""

    type_oid: int
    schema: str
    name: str
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class Insert:
    """A new row."""

    relation_id: int
    new: TupleData
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """A changed row; ``old`` is there when the identity changed, or always with identity FULL."""

    relation_id: int
    old_kind: OldKind | None
    old: TupleData | None
    new: TupleData
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """A deleted row."""

    relation_id: int
    old_kind: OldKind
    old: TupleData
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class Truncate:
    """All rows of the named relations are gone."""

    relation_ids: tuple[int, ...]
    cascade: bool
    restart_identity: bool
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """pg_logical_emit_message. Any role may send one: the content is not to be trusted."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class StreamStart:
    """A block of changes of the transaction ``xid``, which is still running, begins."""

    xid: int
    first_segment: bool


@dataclass(frozen=True, slots=True)
class StreamStop:
    """The block ends."""


@dataclass(frozen=True, slots=True)
class StreamCommit:
    """A streamed transaction is complete."""

    xid: int
    commit_lsn: int
    end_lsn: int
    commit_time_us: int


@dataclass(frozen=True, slots=True)
class StreamAbort:
    """A streamed transaction, or its subtransaction ``subxid`` alone, was rolled back.

    The LSN and time come only with protocol 4 and ``streaming 'parallel'``.
    """

    xid: int
    subxid: int
    abort_lsn: int | None = None
    abort_time_us: int | None = None


@dataclass(frozen=True, slots=True)
class BeginPrepare:
    """A prepared transaction starts."""

    prepare_lsn: int
    end_lsn: int
    prepare_time_us: int
    xid: int
    gid: str


@dataclass(frozen=True, slots=True)
class Prepare:
    """The transaction is prepared."""

    prepare_lsn: int
    end_lsn: int
    prepare_time_us: int
    xid: int
    gid: str


@dataclass(frozen=True, slots=True)
class CommitPrepared:
    """A prepared transaction was committed."""

    commit_lsn: int
    end_lsn: int
    commit_time_us: int
    xid: int
    gid: str


@dataclass(frozen=True, slots=True)
class RollbackPrepared:
    """A prepared transaction was rolled back."""

    prepare_end_lsn: int
    rollback_end_lsn: int
    prepare_time_us: int
    rollback_time_us: int
    xid: int
    gid: str


@dataclass(frozen=True, slots=True)
class StreamPrepare:
    """A streamed transaction is prepared."""

    prepare_lsn: int
    end_lsn: int
    prepare_time_us: int
    xid: int
    gid: str


PgOutputMessage = (
    Begin
    | Commit
    | Origin
    | Relation
    | Type
    | Insert
    | Update
    | Delete
    | Truncate
    | Message
    | StreamStart
    | StreamStop
    | StreamCommit
    | StreamAbort
    | BeginPrepare
    | Prepare
    | CommitPrepared
    | RollbackPrepared
    | StreamPrepare
)
