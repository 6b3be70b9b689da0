"""A pin shows exactly what committed before one LSN, and its hashes are those of the table."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgsync.changes import BatchKind, Op, VectorState
from pgsync.table import ColumnSpec
from server import pins
from server.errors import PinConflict, StaleIndex, UnknownPin
from server.pins import Pins
from server.verifying import row_hashes
from tests.change_batches import COLUMNS, Change, change_rows, make_spec
from tests.fix_mirrors import Feeder

A, B, C = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def pinned(feeder: Feeder, pin_id: str) -> dict[Any, int]:
    batches = list(feeder.mirror.pin_rows(pin_id, batch_rows=2))
    rows = pa.Table.from_batches(batches).to_pydict()
    return dict(zip(rows["key:id"], rows["hash"], strict=True))


def hashes(feeder: Feeder, *changes: Change) -> dict[Any, int]:
    rows = change_rows(feeder.spec.table, changes)
    return dict(zip([c.key for c in changes], row_hashes(rows).tolist(), strict=True))


def test_a_pin_shows_exactly_what_committed_before_its_lsn(feeder: Feeder) -> None:
    feeder.copy({1: A})
    pin = feeder.mirror.pin()
    ack = feeder.change(200, feeder.upsert(2, B))
    assert (ack.durable_lsn, ack.applied_lsn) == (201, 100)
    feeder.change(300, feeder.upsert(3, C), Change(Op.DELETE, 1))
    assert feeder.vectors() == {1: A}
    feeder.mirror.fix(pin.id, 300)
    assert feeder.vectors() == {2: B, 3: C}
    assert feeder.mirror.state.applied_lsn == 301
    assert pinned(feeder, pin.id) == hashes(feeder, feeder.upsert(1, A), feeder.upsert(2, B))
    feeder.change(400, Change(Op.TRUNCATE))
    assert set(pinned(feeder, pin.id)) == {1, 2}
    feeder.mirror.unpin(pin.id)
    with pytest.raises(UnknownPin):
        feeder.mirror.pin_rows(pin.id)


def test_a_pin_waits_for_everything_below_its_lsn(feeder: Feeder) -> None:
    feeder.copy({1: A})
    pin = feeder.mirror.pin()
    with pytest.raises(StaleIndex):
        feeder.mirror.fix(pin.id, 250, timeout_s=0.01)
    fixing = threading.Thread(target=feeder.mirror.fix, args=(pin.id, 250, 30))
    fixing.start()
    feeder.change(200, feeder.upsert(2, B))
    feeder.send(BatchKind.CHANGES, watermark=250)
    fixing.join()
    assert set(pinned(feeder, pin.id)) == {1, 2}
    with pytest.raises(PinConflict, match="passed"):
        feeder.mirror.fix(pin.id, 300)


def test_one_pin_holds_at_a_time_and_never_a_passed_position(feeder: Feeder) -> None:
    feeder.copy({1: A}, watermark=100)
    pin = feeder.mirror.pin()
    with pytest.raises(PinConflict, match="another pin"):
        feeder.mirror.pin()
    with pytest.raises(PinConflict, match="no position"):
        feeder.mirror.pin_rows(pin.id)
    with pytest.raises(PinConflict, match="passed"):
        feeder.mirror.fix(pin.id, 99)
    feeder.change(200, feeder.upsert(2, B))
    feeder.mirror.unpin(pin.id)
    assert feeder.vectors() == {1: A, 2: B}


def test_a_holding_pin_lasts_no_longer_than_its_lease(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "LEASE_S", -1.0)
    feeder.copy({1: A})
    pin = feeder.mirror.pin()
    feeder.change(200, feeder.upsert(2, B))
    assert feeder.vectors() == {1: A, 2: B}
    with pytest.raises(UnknownPin):
        feeder.mirror.fix(pin.id, 300)


def test_held_changes_survive_a_restart(feeder: Feeder) -> None:
    feeder.copy({1: A})
    feeder.mirror.pin()
    feeder.change(200, feeder.upsert(2, B))
    feeder.mirror.snapshot()
    feeder.reopen()
    assert feeder.vectors() == {1: A, 2: B}


def test_a_new_copy_ends_a_holding_pin(feeder: Feeder) -> None:
    feeder.copy({1: A})
    pin = feeder.mirror.pin()
    feeder.copy({2: B}, epoch=2, watermark=300)
    assert feeder.vectors() == {2: B}
    with pytest.raises(UnknownPin):
        feeder.mirror.fix(pin.id, 400)


def test_a_fixed_pin_is_kept_while_it_is_read() -> None:
    now = [0.0]
    board = Pins(lambda: now[0])
    pin = board.add()
    now[0] = 29.0
    assert board.get(pin.id) is pin
    holding = {}
    for now[0] in (58.0, 60.0):
        holding[now[0]] = board.holding
    assert holding == {58.0: True, 60.0: False}
    with pytest.raises(UnknownPin):
        board.get(pin.id)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": st.none() | st.sampled_from(["", "a", "ab", "b"]),
    "tags": st.none() | st.lists(st.none() | st.sampled_from(["", "a", "b"]), max_size=2),
    "price": st.none() | st.sampled_from([0.0, -0.0, 1.0]),
    "owner": st.none() | st.sampled_from([bytes(16), b"\1" * 16]),
    "sizes": st.none() | st.lists(st.none() | st.integers(0, 1), max_size=2),
    "fine": st.none() | st.booleans(),
}
ROWS = st.fixed_dictionaries(VALUES)
VECTORS = st.tuples(*[st.sampled_from([0.0, 0.1, -1.0])] * 3)


@given(st.lists(st.tuples(VECTORS, ROWS), min_size=2, max_size=8))
def test_rows_have_equal_hashes_exactly_when_they_are_equal(rows: list[Any]) -> None:
    table = make_spec().table
    changes = [Change(Op.UPSERT, n, vector=v, columns=c) for n, (v, c) in enumerate(rows)]
    found = row_hashes(change_rows(table, changes)).tolist()
    for a, row_a in enumerate(rows):
        for b, row_b in enumerate(rows):
            assert (found[a] == found[b]) == (repr(row_a) == repr(row_b))


@pytest.mark.parametrize("raw_dtype", ["float32", "float16"])
def test_an_index_and_its_table_have_the_same_hashes(tmp_path: Path, raw_dtype: str) -> None:
    feeder = Feeder(tmp_path, make_spec(columns=COLUMNS, raw_dtype=raw_dtype))
    feeder.copy({})
    columns = {"name": "x", "tags": ["a", None], "price": 0.1, "owner": b"\2" * 16}
    rows = [
        feeder.upsert(1, (0.1, 0.2, 0.3), columns={**columns, "sizes": None, "fine": True}),
        feeder.upsert(2, B, columns=dict.fromkeys(column.name for column in COLUMNS)),
    ]
    feeder.change(200, *rows, feeder.upsert(3, state=VectorState.NULL, columns=rows[1].columns))
    pin = feeder.mirror.pin()
    feeder.mirror.fix(pin.id, 201)
    expected = row_hashes(change_rows(feeder.spec.table, rows), raw_dtype).tolist()
    assert pinned(feeder, pin.id) == {1: expected[0], 2: expected[1]}
    feeder.mirror.close()


def test_halfvec_rows_have_the_same_hashes(tmp_path: Path) -> None:
    table = make_spec(columns=()).table
    rows = pa.RecordBatch.from_arrays(
        [pa.FixedSizeListArray.from_arrays(pa.array(np.array([1, 2, 3], np.float16)), 3)],
        names=["vector"],
    )
    single = change_rows(table, [Change(Op.UPSERT, 1, vector=(1.0, 2.0, 3.0))])
    assert row_hashes(rows).tolist() == row_hashes(single, "float16").tolist()
    assert row_hashes(rows).tolist() != row_hashes(single).tolist()


def test_a_hash_is_what_the_documentation_says() -> None:
    import struct

    import xxhash

    spec = make_spec(
        columns=(ColumnSpec("n", "int2"), ColumnSpec("t", "text"), ColumnSpec("a", "int4[]"))
    )
    row = Change(Op.UPSERT, 1, vector=A, columns={"n": 7, "t": "ü", "a": [5, None]})
    expected = struct.pack("<3f", *A) + b"\1" + struct.pack("<h", 7)
    expected += b"\1" + struct.pack("<I", 2) + "ü".encode()
    expected += b"\1" + struct.pack("<I", 2) + b"\1" + struct.pack("<i", 5) + b"\0"
    found = row_hashes(change_rows(spec.table, [row])).tolist()
    assert found == [xxhash.xxh64_intdigest(expected)]
