"""ChangeAssembler: when batches leave, what is skipped, and what asks for a new copy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest

from pgsync import messages as m
from pgsync.changes import BatchKind, ChangeBatch, Op, VectorState
from pgsync.errors import DecodeError, ResyncNeeded
from pgsync.stream import ChangeAssembler
from pgsync.table import TableSpec
from tests.pgoutput_writer import message_bytes
from tests.replication_model import (
    ORDERS,
    OTHER_TABLE,
    SPEC,
    UNCHANGED,
    Change,
    binary,
    relation,
    vector_type,
)
from tests.table_strategies import table

ORDER = ORDERS[0]
DESCRIPTION: list[m.PgOutputMessage] = [vector_type(), relation(ORDER)]


def _assembler(spec: TableSpec = SPEC, start_lsn: int = 1, **limits: Any) -> ChangeAssembler:
    return ChangeAssembler(spec, epoch=3, system_id="7", start_lsn=start_lsn, **limits)


def _feed(assembler: ChangeAssembler, messages: Iterable[m.PgOutputMessage]) -> None:
    for message in messages:
        assembler.feed(0, message_bytes(message))


def _insert(key: int, xid: int | None = None) -> m.PgOutputMessage:
    return Change("insert", key, vector=[1.0, 2.0, 3.0]).message(ORDER, xid)


def _whole(lsn: int, *rows: m.PgOutputMessage) -> list[m.PgOutputMessage]:
    return [m.Begin(lsn, 0, 5), *rows, m.Commit(lsn, lsn + 8, 0)]


def _keys(batches: list[ChangeBatch]) -> list[list[int | None]]:
    return [batch.rows["key:k0"].to_pylist() for batch in batches]


def _all_keys(batches: list[ChangeBatch]) -> list[int | None]:
    return [key for keys in _keys(batches) for key in keys]


def _started(**options: Any) -> ChangeAssembler:
    """Return an assembler that knows the table and has taken one change, of key 0."""
    assembler = _assembler(**options)
    _feed(assembler, _whole(100, *DESCRIPTION, _insert(0)))
    assert assembler.take()
    return assembler


def test_a_batch_names_its_epoch_system_and_positions() -> None:
    assembler = _assembler()
    _feed(assembler, _whole(100, *DESCRIPTION, _insert(1)))
    assembler.feed(500, message_bytes(m.Origin(1, "elsewhere")))
    (batch,) = assembler.take()
    assert (batch.kind, batch.epoch, batch.system_id) == (BatchKind.CHANGES, 3, "7")
    assert (batch.watermark_lsn, batch.source_lsn) == (108, 500)
    assert batch.rows["commit_lsn"].to_pylist() == [100]
    assert ChangeBatch.from_ipc(batch.to_ipc()).rows.equals(batch.rows)


def test_many_small_transactions_share_one_batch() -> None:
    assembler = _assembler()
    for i in range(100):
        _feed(assembler, _whole(100 + 10 * i, *(DESCRIPTION if i == 0 else []), _insert(i)))
        assert assembler.take(flush=False) == []
    assert assembler.pending_rows == 100
    assert _keys(assembler.take()) == [list(range(100))]
    assert assembler.take() == []


def test_a_large_transaction_leaves_in_batches_before_its_commit_arrives() -> None:
    assembler = _started(batch_rows=4)
    _feed(assembler, [m.Begin(1000, 0, 6), *(_insert(i) for i in range(10))])
    assert assembler.in_transaction
    early = assembler.take(flush=False)
    assert _keys(early) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert {batch.watermark_lsn for batch in early} == {108}
    assert early[1].rows["ordinal"].to_pylist() == [4, 5, 6, 7]
    assert early[1].rows["commit_lsn"].to_pylist() == [1000] * 4
    _feed(assembler, [m.Commit(1000, 1008, 0)])
    (last,) = assembler.take()
    assert (_keys([last]), last.watermark_lsn) == ([[8, 9]], 1008)


def test_flush_keeps_back_the_rows_of_an_open_transaction() -> None:
    assembler = _assembler()
    _feed(assembler, _whole(100, *DESCRIPTION, _insert(1)))
    _feed(assembler, [m.Begin(200, 0, 6), _insert(2)])
    (done,) = assembler.take()
    assert (_keys([done]), done.watermark_lsn) == ([[1]], 108)
    assert assembler.take() == []
    _feed(assembler, [_insert(3), m.Commit(200, 208, 0)])
    (rest,) = assembler.take()
    assert (_keys([rest]), rest.rows["ordinal"].to_pylist()) == ([[2, 3]], [0, 1])


def test_take_stops_at_the_number_of_batches_asked_for() -> None:
    assembler = _assembler(batch_rows=2)
    _feed(assembler, _whole(100, *DESCRIPTION, *(_insert(i) for i in range(5))))
    assert _keys(assembler.take(max_batches=2)) == [[0, 1], [2, 3]]
    assert _keys(assembler.take()) == [[4]]


def test_batches_are_bounded_by_bytes() -> None:
    assembler = _assembler(batch_bytes=200)
    _feed(assembler, _whole(100, *DESCRIPTION, *(_insert(i) for i in range(20))))
    batches = assembler.take(max_batches=99)
    assert _all_keys(batches) == list(range(20))
    assert len(batches) >= 5


def test_vectors_that_are_small_on_the_wire_and_large_in_memory_bound_batches_too() -> None:
    spec = table("sparsevec", dim=1000)
    columns = (m.RelationColumn("k0", 20, -1, True), m.RelationColumn("v", 9, 1000, False))
    shape: list[m.PgOutputMessage] = [
        m.Type(9, "", "sparsevec"),
        m.Relation(77, "shop", "items", "d", columns),
    ]
    assembler = _assembler(spec, batch_bytes=8000)
    empty = binary("sparsevec", [0.0] * 1000)
    rows = [m.Insert(77, (binary("int8", i), empty)) for i in range(5)]
    _feed(assembler, _whole(100, *shape, *rows))
    assert [batch.rows.num_rows for batch in assembler.take()] == [2, 2, 1]


def test_a_moved_watermark_leaves_in_a_batch_without_rows() -> None:
    assembler = _started()
    assert assembler.take() == []
    assembler.keepalive(500)
    assert assembler.take(flush=False) == []
    (batch,) = assembler.take()
    assert (batch.rows.num_rows, batch.watermark_lsn) == (0, 500)
    assert batch.rows.schema == batch.rows.schema.empty_table().schema
    assert assembler.take() == []


def test_a_keepalive_inside_a_transaction_does_not_move_the_watermark() -> None:
    assembler = _started()
    _feed(assembler, [m.Begin(1000, 0, 6)])
    assembler.keepalive(5000)
    assert (assembler.watermark_lsn, assembler.source_lsn) == (108, 5000)


def test_a_keepalive_inside_a_stream_block_moves_the_watermark() -> None:
    assembler = _started()
    _feed(assembler, [m.StreamStart(6, True), _insert(1, xid=6)])
    assembler.keepalive(5000)
    assert assembler.watermark_lsn == 5000
    assert assembler.pending_rows == 0


def test_a_transaction_before_the_start_is_skipped_but_what_it_says_of_the_table_is_not() -> None:
    assembler = _assembler(start_lsn=108)
    _feed(assembler, _whole(100, *DESCRIPTION, _insert(1)))
    assert assembler.take() == []
    _feed(assembler, _whole(108, _insert(2)))
    assert _keys(assembler.take()) == [[2]]


def test_changes_of_other_tables_only_move_the_watermark() -> None:
    assembler = _started()
    other = dataclasses.replace(relation(ORDER), relation_id=OTHER_TABLE)
    row = Change("other", 1).message(ORDER, None)
    message = m.Message(True, 1, "anything", b"at all")
    truncate = m.Truncate((OTHER_TABLE,), True, False)
    _feed(assembler, _whole(200, other, row, message, truncate))
    (batch,) = assembler.take()
    assert (batch.rows.num_rows, batch.watermark_lsn) == (0, 208)


def test_streamed_rows_beyond_the_memory_limit_lie_on_disk(tmp_path: Path) -> None:
    assembler = _started(stream_memory_bytes=200, spill_directory=tmp_path, batch_rows=8)
    shape: list[m.PgOutputMessage] = [vector_type(6), relation(ORDER, 6)]
    rows = [_insert(i, xid=6) for i in range(50)]
    _feed(assembler, [m.StreamStart(6, True), *shape, *rows, m.StreamStop()])
    held = assembler._streamed[6]
    assert held.memory_bytes <= 200
    _feed(assembler, [m.StreamCommit(6, 1000, 1008, 0)])
    assert _all_keys(assembler.take(max_batches=99)) == list(range(50))
    assert list(tmp_path.iterdir()) == []


def test_a_spill_directory_that_is_gone_is_an_os_error(tmp_path: Path) -> None:
    assembler = _started(stream_memory_bytes=0, spill_directory=tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        _feed(assembler, [m.StreamStart(6, True), _insert(1, xid=6)])


def test_a_closed_assembler_has_nothing_left() -> None:
    assembler = _assembler()
    _feed(assembler, _whole(100, *DESCRIPTION, _insert(1)))
    assembler.close()
    assert assembler.pending_rows == assembler.pending_bytes == 0


# What asks for a new copy


def _changed(column: str, **changes: Any) -> m.Relation:
    """Return the relation with one column changed."""
    shape = relation(ORDER)
    columns = [dataclasses.replace(c, **changes) if c.name == column else c for c in shape.columns]
    return dataclasses.replace(shape, columns=tuple(columns))


def _without(name: str) -> m.Relation:
    shape = relation(ORDER)
    return dataclasses.replace(shape, columns=tuple(c for c in shape.columns if c.name != name))


_MENDS = [
    (_changed("v", name="w"), "column v of shop.items was dropped, renamed or left out"),
    (_without("k0"), "column k0 of shop.items was dropped"),
    (_without("c1"), "column c1 of shop.items was dropped"),
    (_changed("v", type_modifier=4), "changed its dimension from 3 to 4"),
    (_changed("v", type_oid=1021), r"changed its type from vector to float4\[\]"),
    (_changed("v", type_oid=4711), "changed its type from vector to oid 4711"),
    (_changed("k0", type_oid=23), "changed its type from int8 to int4"),
    (_changed("c0", type_oid=20), "changed its type from int4 to int8"),
    (_changed("k0", in_key=False), "no longer holds the key"),
]


@pytest.mark.parametrize(("shape", "sentence"), _MENDS)
def test_a_changed_mirrored_column_needs_a_new_copy(shape: m.Relation, sentence: str) -> None:
    assembler = _started()
    with pytest.raises(ResyncNeeded, match=sentence):
        _feed(assembler, [m.Begin(200, 0, 6), vector_type(), shape])


@pytest.mark.parametrize(
    "shape",
    [
        dataclasses.replace(relation(ORDER), schema="other", table="renamed"),
        _changed("x", name="y", type_oid=20),
        _without("x"),
        _changed("v", type_modifier=-1),
        _changed("c1", type_oid=1043, type_modifier=24),
        dataclasses.replace(_changed("k0", in_key=False), replica_identity="n"),
    ],
)
def test_what_does_not_touch_a_mirrored_column_needs_none(shape: m.Relation) -> None:
    assembler = _started()
    order = tuple(column.name for column in shape.columns)
    order = tuple("x" if name == "y" else name for name in order)
    row = Change("insert", 5, vector=[1.0, 2.0, 3.0], c1="text").message(order, None)
    _feed(assembler, _whole(200, vector_type(), shape, row))
    (batch,) = assembler.take()
    assert batch.rows["col:c1"].to_pylist() == ["text"]


@pytest.mark.parametrize(
    ("column_type", "described"),
    [("text", "varchar"), ("text[]", "_bpchar"), ("int4[]", "_int4"), ("int8", "int8")],
)
def test_a_domain_counts_as_the_type_it_is_over(column_type: str, described: str) -> None:
    spec = table(columns=(column_type,))
    columns = (
        m.RelationColumn("k0", 20, -1, True),
        m.RelationColumn("v", 8000, -1, False),
        m.RelationColumn("c0", 9000, -1, False),
    )
    assembler = _assembler(spec)
    types = [m.Type(8000, "public", "vector"), m.Type(9000, "", described)]
    shape = m.Relation(77, "shop", "items", "d", columns)
    row = m.Insert(77, (binary("int8", 1), binary("vector", [1, 2, 3]), m.TupleValue("n")))
    _feed(assembler, _whole(100, *types, shape, row))
    assert _keys(assembler.take()) == [[1]]


def test_a_change_of_shape_counts_in_a_stream_only_if_its_rows_are_committed() -> None:
    shape = dataclasses.replace(_changed("v", type_modifier=4), xid=7)
    blocks: list[m.PgOutputMessage] = [
        m.StreamStart(6, True),
        vector_type(6),
        relation(ORDER, 6),
        _insert(1, xid=6),
        shape,
        _insert(2, xid=7),
        m.StreamStop(),
    ]
    kept = _started()
    _feed(kept, blocks)
    with pytest.raises(ResyncNeeded, match="dimension"):
        _feed(kept, [m.StreamCommit(6, 1000, 1008, 0)])
    rolled_back = _started()
    _feed(rolled_back, [*blocks, m.StreamAbort(6, 7), m.StreamCommit(6, 1000, 1008, 0)])
    assert _keys(rolled_back.take()) == [[1]]


def test_a_changed_shape_in_a_skipped_transaction_counts_once_a_row_needs_it() -> None:
    assembler = _assembler(start_lsn=150)
    _feed(assembler, _whole(100, vector_type(), _changed("v", type_modifier=4), _insert(1)))
    _feed(assembler, [m.Begin(200, 0, 6)])
    with pytest.raises(ResyncNeeded, match="dimension"):
        _feed(assembler, [_insert(2)])


@pytest.mark.parametrize("unsent", [{"vector": UNCHANGED}, {"c1": UNCHANGED}])
def test_an_inserted_row_without_its_toasted_values_needs_a_new_copy(
    unsent: dict[str, m.TupleValue],
) -> None:
    assembler = _started()
    _feed(assembler, _whole(200, Change("insert", 1, **unsent).message(ORDER, None)))  # type: ignore[arg-type]
    with pytest.raises(ResyncNeeded, match="row filter"):
        assembler.take()


# Long text keys, which may be stored out of line

TEXT_SPEC = table(key=("text",))
TEXT_SHAPE = m.Relation(
    77,
    "shop",
    "items",
    "d",
    (m.RelationColumn("k0", 25, -1, True), m.RelationColumn("v", 16385, 3, False)),
)
VECTOR = binary("vector", [1, 2, 3])


def _text_update(old: m.TupleData | None, key: m.TupleValue) -> ChangeAssembler:
    assembler = _assembler(TEXT_SPEC)
    update = m.Update(77, "K" if old else None, old, (key, VECTOR))
    _feed(assembler, _whole(100, vector_type(), TEXT_SHAPE, update))
    return assembler


def test_an_unchanged_key_comes_from_the_old_tuple() -> None:
    old = (binary("text", "long"), m.TupleValue("n"))
    (batch,) = _text_update(old, UNCHANGED).take()
    (row,) = batch.rows.to_pylist()
    assert (row["op"], row["key:k0"], row["old:k0"]) == (Op.UPSERT, "long", None)
    assert row["vector_state"] == VectorState.PRESENT


def test_an_old_tuple_with_the_same_key_is_no_key_change() -> None:
    old = (binary("text", "same"), m.TupleValue("n"))
    (batch,) = _text_update(old, binary("text", "same")).take()
    assert batch.rows["old:k0"].to_pylist() == [None]


def test_a_key_that_was_not_sent_at_all_needs_a_new_copy() -> None:
    with pytest.raises(ResyncNeeded, match="without its key"):
        _text_update(None, UNCHANGED).take()


def test_a_null_key_is_refused() -> None:
    with pytest.raises(DecodeError, match="key is NULL"):
        _text_update(None, m.TupleValue("n")).take()


# Messages out of order

_BEGIN, _COMMIT = m.Begin(200, 0, 6), m.Commit(200, 208, 0)
_START, _STOP = m.StreamStart(6, True), m.StreamStop()


@pytest.mark.parametrize(
    "messages",
    [
        [_insert(1)],
        [_BEGIN, _BEGIN],
        [_COMMIT],
        [_BEGIN, m.Commit(300, 308, 0)],
        [m.Truncate((77,), False, False)],
        [_START, _BEGIN],
        [_START, _START],
        [_STOP],
        [_BEGIN, _START],
        [_START, _STOP, _START],
        [m.StreamStart(6, False)],
        [m.StreamCommit(6, 1, 2, 3)],
        [_START, m.StreamCommit(6, 1, 2, 3)],
        [_START, m.StreamAbort(6, 6)],
        [_BEGIN, m.StreamAbort(6, 6)],
        [m.BeginPrepare(1, 2, 3, 4, "gid")],
        [m.StreamPrepare(1, 2, 3, 4, "gid")],
    ],
)
def test_messages_out_of_order_raise_decode_error(messages: list[m.PgOutputMessage]) -> None:
    assembler = _started()
    with pytest.raises(DecodeError):
        _feed(assembler, messages)


@pytest.mark.parametrize(
    "row", [_insert(1), m.Truncate((77,), False, False)], ids=["insert", "truncate"]
)
def test_a_row_before_any_relation_message_raises_decode_error(row: m.PgOutputMessage) -> None:
    with pytest.raises(DecodeError, match="no Relation"):
        _feed(_assembler(), [_BEGIN, row])
    inside = dataclasses.replace(cast(Any, row), xid=6)
    with pytest.raises(DecodeError, match="no Relation"):
        _feed(_assembler(), [_START, inside])


def test_an_abort_of_a_transaction_that_never_came_is_nothing() -> None:
    assembler = _started()
    _feed(assembler, [m.StreamAbort(8, 8), m.StreamAbort(8, 9)])
    assert assembler.take() == []


@pytest.mark.parametrize(("opening", "payload"), [(_BEGIN, b"I\0\0\0\x4d"), (_START, b"D\0\0\0\6")])
def test_a_row_message_cut_short_raises_decode_error(
    opening: m.PgOutputMessage, payload: bytes
) -> None:
    assembler = _started()
    _feed(assembler, [opening])
    with pytest.raises(DecodeError):
        _feed_and_take(assembler, payload)


def _feed_and_take(assembler: ChangeAssembler, payload: bytes) -> None:
    assembler.feed(0, payload)
    _feed(assembler, [_COMMIT])
    assembler.take()
