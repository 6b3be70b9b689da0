"""A model of what a walsender sends for random transactions, and what must come of it.

The table is ``table_strategies.table(columns=("int4", "text"))`` with one more column that is not
mirrored; the columns stand in one of several orders, and change it from transaction to transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from pgsync import messages as m
from pgsync.changes import Op, VectorState
from tests.pgoutput_writer import message_bytes, value_bytes
from tests.table_strategies import table

SPEC = table(columns=("int4", "text"))
VECTOR_OID = 16385
OTHER_TABLE = 78
TYPE_OIDS = {"k0": 20, "v": VECTOR_OID, "c0": 23, "c1": 25, "x": 25}
ORDERS: tuple[tuple[str, ...], ...] = (
    ("k0", "v", "c0", "c1", "x"),
    ("x", "c1", "c0", "v", "k0"),
    ("v", "k0", "c1", "c0"),
)

NULL, UNCHANGED = m.TupleValue("n"), m.TupleValue("u")
Expected = dict[str, Any]


def binary(type_name: str, value: Any) -> m.TupleValue:
    """Return a value as it comes in binary mode."""
    return NULL if value is None else m.TupleValue("b", value_bytes(type_name, value))


def relation(order: tuple[str, ...], xid: int | None = None) -> m.Relation:
    """Return the Relation message of the table with its columns in this order."""
    columns = tuple(
        m.RelationColumn(name, TYPE_OIDS[name], 3 if name == "v" else -1, name == "k0")
        for name in order
    )
    return m.Relation(SPEC.relation_id, "shop", "items", "d", columns, xid)


def vector_type(xid: int | None = None) -> m.Type:
    """Return the Type message that comes before the relation's."""
    return m.Type(VECTOR_OID, "public", "vector", xid)


@dataclass
class Change:
    """A row change: its values by column name, None for NULL, UNCHANGED for what is not sent."""

    kind: str
    key: int = 0
    old_key: int = 0
    vector: Any = None
    c0: Any = None
    c1: Any = None
    old_values: tuple[Any, Any, Any] = (None, None, None)

    def message(self, order: tuple[str, ...], xid: int | None) -> m.PgOutputMessage:
        """Return what the walsender writes."""
        new = self._tuple(order, self.key, self.vector, self.c0, self.c1)
        old_key = self._tuple(order, self.old_key, None, None, None)
        old_full = self._tuple(order, self.old_key, *self.old_values)
        relation_id = OTHER_TABLE if self.kind == "other" else SPEC.relation_id
        forms: dict[str, m.PgOutputMessage] = {
            "insert": m.Insert(relation_id, new, xid),
            "other": m.Insert(relation_id, new, xid),
            "update": m.Update(relation_id, None, None, new, xid),
            "update key": m.Update(relation_id, "K", old_key, new, xid),
            "update full": m.Update(relation_id, "O", old_full, new, xid),
            "delete": m.Delete(relation_id, "K", old_key, xid),
            "delete full": m.Delete(relation_id, "O", old_full, xid),
            "truncate": m.Truncate((OTHER_TABLE, relation_id), False, False, xid),
        }
        return forms[self.kind]

    def _tuple(
        self, order: tuple[str, ...], key: int, vector: Any, c0: Any, c1: Any
    ) -> m.TupleData:
        given = {"k0": ("int8", key), "v": ("vector", vector), "c0": ("int4", c0)}
        given |= {"c1": ("text", c1), "x": ("text", "not mirrored")}
        return tuple(
            UNCHANGED if value is UNCHANGED else binary(type_name, value)
            for type_name, value in (given[name] for name in order)
        )

    def expected(self) -> Expected:
        """Return the row of the change batch, without LSN and ordinal."""
        if self.kind == "truncate":
            return _row(Op.TRUNCATE, key=None)
        if self.kind.startswith("delete"):
            return _row(Op.DELETE, key=self.old_key)
        values = [self.vector, self.c0, self.c1]
        if self.kind == "update full":
            pairs = zip(values, self.old_values, strict=True)
            values = [old if new is UNCHANGED else new for new, old in pairs]
        renamed = self.kind in ("update key", "update full") and self.key != self.old_key
        return _row(Op.UPSERT, self.key, self.old_key if renamed else None, *values)


def _row(
    op: Op, key: Any, old_key: Any = None, vector: Any = None, c0: Any = None, c1: Any = None
) -> Expected:
    unchanged = (c0 is UNCHANGED) | (c1 is UNCHANGED) << 1
    state = _state(vector)
    return {
        "op": op,
        "vector_state": state,
        "vector": vector if state is VectorState.PRESENT else None,
        "unchanged": unchanged,
        "key:k0": key,
        "old:k0": old_key,
        "col:c0": None if c0 is UNCHANGED else c0,
        "col:c1": None if c1 is UNCHANGED else c1,
    }


def _state(vector: Any) -> VectorState:
    if vector is None:
        return VectorState.NULL
    if vector is UNCHANGED:
        return VectorState.UNCHANGED
    return VectorState.PRESENT if len(vector) == SPEC.dim else VectorState.WRONG_DIMENSION


_keys = st.integers(0, 9)
_vectors = st.none() | st.lists(st.integers(-9, 9).map(float), min_size=2, max_size=3)
_texts = st.none() | st.text("abcé", max_size=6)
_ints = st.none() | st.integers(-5, 5)
_unchanged = st.just(UNCHANGED)

changes = st.one_of(
    st.builds(Change, st.sampled_from(["insert", "other"]), _keys, _keys, _vectors, _ints, _texts),
    st.builds(
        Change,
        st.sampled_from(["update", "update key", "update full"]),
        _keys,
        _keys,
        _vectors | _unchanged,
        _ints,
        _texts | _unchanged,
        st.tuples(_vectors, _ints, _texts),
    ),
    st.builds(Change, st.sampled_from(["delete", "delete full", "truncate"]), _keys, _keys),
)


@dataclass
class Savepoint:
    """A subtransaction: changes and further savepoints, kept or rolled back."""

    steps: list[Change | Savepoint]
    aborted: bool = False
    xid: int = 0


def savepoints(depth: int) -> st.SearchStrategy[Savepoint]:
    """Return nested savepoints of at most this depth."""
    step: st.SearchStrategy[Change | Savepoint] = changes
    if depth:
        step = changes | savepoints(depth - 1)
    steps = st.lists(step, min_size=1, max_size=5)
    return st.builds(Savepoint, steps, st.sampled_from([False, False, False, True]))


@dataclass
class Transaction:
    """A top-level transaction; ``order`` is that of the table's columns, None for as it was."""

    body: Savepoint
    streamed: bool
    order: tuple[str, ...] | None


transactions = st.builds(
    Transaction, savepoints(2), st.booleans(), st.none() | st.sampled_from(ORDERS)
)


@dataclass
class Sent:
    """Messages in the order of the stream, None for a place where a keepalive says its position."""

    wire: list[tuple[int, bytes | None]] = field(default_factory=list)
    expected: list[Expected] = field(default_factory=list)
    last_end_lsn: int = 0


class Walsender:
    """Writes transactions as a walsender would, and notes what must come of them."""

    def __init__(self) -> None:
        self.sent = Sent()
        self._lsn, self._xid = 1000, 500
        self._order = ORDERS[0]
        self._described = False

    def keepalive(self) -> None:
        """Write a keepalive: everything up to here has been sent."""
        self.sent.wire.append((self._advance(), None))

    def send_whole(self, transaction: Transaction) -> None:
        """Write a transaction between Begin and Commit; what was rolled back never gets here."""
        kept = _kept(transaction.body)
        commit_lsn = self._lsn + 100 * (len(kept) + 2)
        self._send(m.Begin(commit_lsn, 0, self._next_xid()))
        self._describe(transaction.order)
        for change in kept:
            self._send(change.message(self._order, None))
        self._finish(kept, commit_lsn, m.Commit(commit_lsn, commit_lsn + 8, 0))

    def _describe(self, order: tuple[str, ...] | None) -> None:
        if order is not None or not self._described:
            self._order = order or self._order
            self._described = True
            self._send(vector_type())
            self._send(relation(self._order))

    def open_stream(self, transaction: Transaction) -> OpenStream:
        """Return the steps of a transaction that is to be streamed in blocks."""
        xid = self._next_xid()
        order = transaction.order or self._order
        steps: list[_Step] = [
            ("message", xid, vector_type(xid)),
            ("message", xid, relation(order, xid)),
        ]
        steps += self._steps(transaction.body, xid, order)
        return OpenStream(xid, steps, order, _kept(transaction.body), transaction.body.aborted)

    def _steps(self, body: Savepoint, xid: int, order: tuple[str, ...]) -> list[_Step]:
        steps: list[_Step] = []
        for step in body.steps:
            if isinstance(step, Change):
                steps.append(("message", xid, step.message(order, xid)))
                continue
            inner = self._next_xid()
            steps += self._steps(step, inner, order)
            if step.aborted:
                steps += [("abort", sub, None) for sub in [*_children(steps, inner), inner]]
        return steps

    def send_block(self, stream: OpenStream, size: int) -> None:
        """Write the next ``size`` steps of a streamed transaction, as one block or several."""
        inside = False
        for kind, xid, message in stream.steps[stream.position : stream.position + size]:
            if (kind == "message") != inside:
                self._send(m.StreamStop() if inside else m.StreamStart(stream.xid, stream.first))
                stream.first, inside = stream.first and inside, not inside
            if message is None:
                self._send(m.StreamAbort(stream.xid, xid))
            else:
                self._send(message)
        if inside:
            self._send(m.StreamStop())
        stream.position += size

    def finish_stream(self, stream: OpenStream) -> None:
        """Commit a streamed transaction, or roll it back."""
        if stream.aborted:
            self._send(m.StreamAbort(stream.xid, stream.xid))
            return
        commit_lsn = self._advance()
        self._order, self._described = stream.order, True
        commit = m.StreamCommit(stream.xid, commit_lsn, commit_lsn + 8, 0)
        self._finish(stream.kept, commit_lsn, commit)

    def _finish(self, kept: list[Change], commit_lsn: int, commit: m.PgOutputMessage) -> None:
        counted = [change for change in kept if change.kind != "other"]
        for ordinal, change in enumerate(counted):
            row = {"commit_lsn": commit_lsn, "ordinal": ordinal, **change.expected()}
            self.sent.expected.append(row)
        self._lsn = max(self._lsn, commit_lsn) + 8
        self.sent.last_end_lsn = commit_lsn + 8
        self._send(commit)

    def _send(self, message: m.PgOutputMessage) -> None:
        self.sent.wire.append((self._advance(), message_bytes(message)))

    def _advance(self) -> int:
        self._lsn += 10
        return self._lsn

    def _next_xid(self) -> int:
        self._xid += 1
        return self._xid


_Step = tuple[str, int, m.PgOutputMessage | None]


@dataclass
class OpenStream:
    """A streamed transaction on its way: steps are row messages and rollbacks of savepoints."""

    xid: int
    steps: list[_Step]
    order: tuple[str, ...]
    kept: list[Change]
    aborted: bool
    position: int = 0
    first: bool = True

    @property
    def done(self) -> bool:
        """Whether all steps have been sent."""
        return self.position >= len(self.steps)


def _kept(body: Savepoint) -> list[Change]:
    if body.aborted:
        return []
    kept: list[Change] = []
    for step in body.steps:
        kept += [step] if isinstance(step, Change) else _kept(step)
    return kept


def _children(steps: list[_Step], xid: int) -> list[int]:
    """Return the subtransactions inside ``xid``: Postgres names each of them in a rollback."""
    return sorted({sub for _, sub, _ in steps if sub > xid})


@st.composite
def replications(draw: st.DrawFn) -> Sent:
    """Return the stream of several transactions, whole ones and streamed ones interleaved."""
    walsender = Walsender()
    waiting = draw(st.lists(transactions, min_size=2, max_size=6))
    streams: list[OpenStream] = []
    while waiting or streams:
        act = draw(st.sampled_from(["next", "block", "finish", "keepalive"]))
        if act == "keepalive":
            walsender.keepalive()
        elif waiting and (act == "next" or not streams):
            _send_next(walsender, waiting.pop(0), streams)
        elif streams:
            _advance_stream(draw, walsender, streams)
    return walsender.sent


def _send_next(walsender: Walsender, transaction: Transaction, streams: list[OpenStream]) -> None:
    if transaction.streamed:
        streams.append(walsender.open_stream(transaction))
        walsender.send_block(streams[-1], 2)
    elif not transaction.body.aborted:
        walsender.send_whole(transaction)


def _advance_stream(draw: st.DrawFn, walsender: Walsender, streams: list[OpenStream]) -> None:
    stream = draw(st.sampled_from(streams))
    if not stream.done:
        walsender.send_block(stream, draw(st.integers(1, 5)))
    else:
        walsender.finish_stream(stream)
        streams.remove(stream)
