"""What a mirror does with batches that fit and with those that do not, one rule at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgsync.changes import BatchKind, ChangeBatch, Op, VectorState
from pgsync.table import ColumnSpec
from server.errors import BadBatch, MirrorFailed, ResyncRequired, StaleEpoch, StaleIndex
from tests.change_batches import Change, bulk_batch, change_batch, change_rows, make_spec
from tests.fix_mirrors import Feeder

A, B, C = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
UNCHANGED, NULL, WRONG = VectorState.UNCHANGED, VectorState.NULL, VectorState.WRONG_DIMENSION


def phase(feeder: Feeder) -> str:
    return feeder.mirror.state.phase


def test_phases_of_a_first_copy_and_of_a_re_copy(feeder: Feeder) -> None:
    assert phase(feeder) == "new"
    feeder.send(BatchKind.COPY_BEGIN)
    assert phase(feeder) == "copying"
    feeder.send(BatchKind.COPY, [feeder.upsert(1, A)])
    assert feeder.vectors() == {}
    feeder.send(BatchKind.COPY_END, watermark=100)
    assert (phase(feeder), feeder.mirror.state.applied_lsn) == ("live", 100)
    feeder.send(BatchKind.COPY_BEGIN, epoch=2)
    assert (phase(feeder), feeder.vectors()) == ("resync", {1: A})
    feeder.send(BatchKind.COPY_END, watermark=200, epoch=2)
    assert (phase(feeder), feeder.vectors()) == ("live", {})


def test_a_transaction_is_visible_whole_or_not_at_all(feeder: Feeder) -> None:
    feeder.copy({1: A})
    half = [feeder.upsert(2, B, lsn=200), feeder.upsert(3, C, lsn=200, ordinal=1)]
    feeder.send(BatchKind.CHANGES, half[:1], watermark=200)
    assert feeder.vectors() == {1: A}
    feeder.send(BatchKind.CHANGES, half[1:], watermark=201)
    assert feeder.vectors() == {1: A, 2: B, 3: C}


def test_a_watermark_alone_completes_a_transaction_durably(feeder: Feeder) -> None:
    feeder.copy({1: A})
    feeder.send(BatchKind.CHANGES, [feeder.upsert(2, B, lsn=200)], watermark=200)
    ack = feeder.send(BatchKind.CHANGES, watermark=300)
    assert ack.durable_lsn == 300
    feeder.reopen()
    assert feeder.vectors() == {1: A, 2: B}


def test_a_watermark_alone_is_not_durable_unless_asked(feeder: Feeder) -> None:
    feeder.copy({1: A})
    before = feeder.mirror.describe()["journal_bytes"]
    ack = feeder.send(BatchKind.CHANGES, watermark=300)
    assert (ack.durable_lsn, ack.applied_lsn) == (100, 300)
    assert feeder.mirror.describe()["journal_bytes"] == before
    assert feeder.send(BatchKind.CHANGES, watermark=300, sync=True).durable_lsn == 300
    feeder.reopen()
    assert feeder.mirror.state.applied_lsn == 300


def test_an_idle_watermark_becomes_durable_after_a_while(tmp_path: Path) -> None:
    feeder = Feeder(tmp_path, watermark_sync_s=0.0)
    feeder.copy({1: A})
    assert feeder.send(BatchKind.CHANGES, watermark=300).durable_lsn == 300
    feeder.mirror.close()


def test_changes_that_arrive_again_are_dropped(feeder: Feeder) -> None:
    feeder.copy({1: A})
    feeder.change(200, feeder.upsert(1, B))
    feeder.change(300, Change(Op.DELETE, 1))
    feeder.change(200, feeder.upsert(1, B), watermark=301)
    assert feeder.vectors() == {}


@pytest.mark.parametrize("temporary", [True, False])
def test_two_rows_trade_their_keys_in_one_transaction(feeder: Feeder, temporary: bool) -> None:
    feeder.copy({1: A, 2: B})
    steps = [(1, 9), (2, 1), (9, 2)] if temporary else [(1, 2), (2, 1)]
    moves = [feeder.upsert(new, old=old, state=UNCHANGED) for old, new in steps]
    feeder.change(200, *moves)
    assert feeder.vectors() == {1: B, 2: A}
    feeder.change(300, Change(Op.DELETE, 1))
    assert feeder.vectors() == {2: A}


def test_a_row_that_left_its_key_to_another_can_be_deleted(feeder: Feeder) -> None:
    feeder.copy({1: A, 2: B})
    feeder.change(200, feeder.upsert(2, old=1, state=UNCHANGED), Change(Op.DELETE, 2))
    assert feeder.vectors() == {2: A}


def test_an_unchanged_vector_is_never_folded_over_a_value(feeder: Feeder) -> None:
    feeder.copy({})
    feeder.change(200, feeder.upsert(1, A), feeder.upsert(1, state=UNCHANGED))
    assert feeder.vectors() == {1: A}
    feeder.change(300, feeder.upsert(1, B), feeder.upsert(5, old=1, state=UNCHANGED))
    assert feeder.vectors() == {5: B}


def test_delete_and_insert_of_one_key_is_a_new_row(feeder: Feeder) -> None:
    feeder.copy({1: A})
    feeder.change(200, Change(Op.DELETE, 1), feeder.upsert(1, B))
    assert feeder.vectors() == {1: B}


def test_truncate_in_the_middle_keeps_what_came_after(feeder: Feeder) -> None:
    feeder.copy({1: A, 2: B})
    feeder.change(200, feeder.upsert(3, C), Change(Op.TRUNCATE), feeder.upsert(2, C))
    assert feeder.vectors() == {2: C}


@pytest.mark.parametrize(
    "before", [(), (Change(Op.DELETE, 1),), (Change(Op.TRUNCATE),)], ids=["", "delete", "truncate"]
)
def test_an_unchanged_vector_of_an_unknown_row_asks_for_a_resync(
    feeder: Feeder, before: tuple[Change, ...]
) -> None:
    feeder.copy({1: A} if before else {})
    rows = feeder.vectors()
    with pytest.raises(ResyncRequired):
        feeder.change(200, *before, feeder.upsert(1, state=UNCHANGED))
    assert phase(feeder) == "resync"
    assert feeder.vectors() == rows
    for _ in range(2):
        with pytest.raises(ResyncRequired):
            feeder.change(300, feeder.upsert(7, A))
        feeder.reopen()
        assert phase(feeder) == "resync"
    feeder.copy({4: B}, epoch=2, watermark=400)
    assert (phase(feeder), feeder.vectors()) == ("live", {4: B})


def test_an_unsent_column_of_an_unknown_row_asks_for_a_resync(tmp_path: Path) -> None:
    feeder = Feeder(tmp_path, make_spec(columns=(ColumnSpec("name", "text"),)))
    feeder.copy({})
    with pytest.raises(ResyncRequired):
        feeder.change(200, feeder.upsert(1, A))
    feeder.mirror.close()


def test_excluded_rows_are_counted_by_reason_through_their_lives(feeder: Feeder) -> None:
    feeder.copy({1: A})
    feeder.change(200, feeder.upsert(2, state=NULL), feeder.upsert(3, state=WRONG))
    assert _excluded(feeder) == (1, 1, 0)
    feeder.change(300, feeder.upsert(3, state=UNCHANGED), feeder.upsert(1, state=NULL))
    assert (_excluded(feeder), feeder.vectors()) == ((2, 1, 0), {})
    feeder.change(400, feeder.upsert(2, A), feeder.upsert(8, old=3, state=UNCHANGED))
    assert (_excluded(feeder), feeder.vectors()) == ((1, 1, 0), {2: A})
    feeder.reopen()
    assert _excluded(feeder) == (1, 1, 0)
    feeder.change(500, Change(Op.DELETE, 8), Change(Op.DELETE, 1))
    assert _excluded(feeder) == (0, 0, 0)
    feeder.change(600, feeder.upsert(2, (float("nan"), 0.0, 0.0)))
    assert (_excluded(feeder), feeder.vectors()) == ((0, 0, 1), {})


def test_an_excluded_row_keeps_its_columns_until_its_vector_comes(tmp_path: Path) -> None:
    feeder = Feeder(tmp_path, make_spec(columns=(ColumnSpec("name", "text"),)))
    feeder.copy({})
    feeder.change(200, feeder.upsert(1, state=NULL, columns={"name": "long text"}))
    feeder.mirror.snapshot()
    feeder.reopen()
    feeder.change(300, feeder.upsert(1, A))
    state = feeder.mirror.state
    assert state.column("name").to_arrow().to_pylist() == ["long text"]
    feeder.mirror.close()


def test_many_excluded_rows_come_and_go_without_growing_the_attic(feeder: Feeder) -> None:
    feeder.copy({})
    for round_ in range(6):
        nulls = [feeder.upsert(key, state=NULL) for key in range(2000)]
        feeder.change(200 + round_, *nulls)
    assert _excluded(feeder) == (2000, 0, 0)
    attic = feeder.mirror._applier.contents.attic
    assert len(attic.reasons()) < 8000
    feeder.change(300, *[Change(Op.DELETE, key) for key in range(1999)])
    assert _excluded(feeder) == (1, 0, 0)


def test_an_update_that_changes_nothing_takes_no_row_id(tmp_path: Path) -> None:
    columns = (ColumnSpec("name", "text"), ColumnSpec("tags", "int4[]"))
    feeder = Feeder(tmp_path, make_spec(columns=columns))
    feeder.copy({})
    values = {"name": "x", "tags": [1, None]}
    feeder.change(200, feeder.upsert(1, A, columns=values))
    feeder.change(300, feeder.upsert(1, A, columns=values))
    feeder.change(400, feeder.upsert(1, state=UNCHANGED))
    assert feeder.mirror.state.n_rows == 1
    feeder.change(500, feeder.upsert(1, A, columns={**values, "tags": [1, 0]}))
    assert feeder.mirror.state.n_rows == 2
    feeder.mirror.close()


def test_an_older_epoch_is_refused(feeder: Feeder) -> None:
    feeder.copy({1: A}, epoch=3)
    for kind in BatchKind:
        with pytest.raises(StaleEpoch):
            feeder.send(kind, epoch=2)
    feeder.send(BatchKind.COPY_BEGIN, epoch=4)
    with pytest.raises(StaleEpoch):
        feeder.change(200, feeder.upsert(1, A), epoch=3)


def test_a_newer_copy_discards_an_unfinished_one(feeder: Feeder) -> None:
    feeder.send(BatchKind.COPY_BEGIN)
    feeder.send(BatchKind.COPY, [feeder.upsert(1, A)])
    feeder.copy({2: B}, epoch=2)
    assert feeder.vectors() == {2: B}
    feeder.reopen()
    assert feeder.vectors() == {2: B}


def test_a_copy_s_begin_and_end_may_be_repeated(feeder: Feeder) -> None:
    feeder.send(BatchKind.COPY_BEGIN)
    feeder.send(BatchKind.COPY_BEGIN)
    feeder.send(BatchKind.COPY, [feeder.upsert(1, A)])
    with pytest.raises(StaleEpoch):
        feeder.send(BatchKind.COPY_BEGIN)
    feeder.send(BatchKind.COPY_END, watermark=100)
    ack = feeder.send(BatchKind.COPY_END, watermark=100)
    assert (ack.durable_lsn, ack.epoch, feeder.vectors()) == (100, 1, {1: A})


def test_rows_without_a_copy_ask_for_one(feeder: Feeder) -> None:
    for kind in (BatchKind.CHANGES, BatchKind.COPY, BatchKind.COPY_END):
        with pytest.raises(ResyncRequired):
            feeder.send(kind, watermark=10)
    assert phase(feeder) == "new"


def test_another_cluster_s_changes_are_refused(feeder: Feeder) -> None:
    feeder.copy({1: A})
    with pytest.raises(ResyncRequired, match="another Postgres cluster"):
        feeder.change(200, feeder.upsert(2, B), system_id="8")
    feeder.change(200, feeder.upsert(3, C))
    assert feeder.vectors() == {1: A, 3: C}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"key": None}, "no key"),
        ({"vector": None}, "is null"),
        ({"op": 4}, "unknown op"),
        ({"state": 5}, "unknown op"),
    ],
)
def test_malformed_rows_are_refused_and_not_journaled(
    feeder: Feeder, fields: dict[str, Any], message: str
) -> None:
    feeder.copy({1: A})
    before = feeder.mirror.describe()["journal_bytes"]
    row = {"op": Op.UPSERT, "key": 1, "vector": A, **fields}
    with pytest.raises(BadBatch, match=message):
        feeder.change(200, Change(**row))
    assert feeder.mirror.describe()["journal_bytes"] == before


def test_batches_that_are_none_are_refused(feeder: Feeder) -> None:
    feeder.copy({1: A})
    twice = [feeder.upsert(1, A, lsn=200), feeder.upsert(1, B, lsn=200)]
    other = make_spec(columns=(ColumnSpec("other", "bool"),))
    for body in (
        b"",
        b"not arrow",
        change_batch(other, BatchKind.CHANGES, watermark=200),
        change_batch(feeder.spec, BatchKind.CHANGES, twice, watermark=300),
        change_batch(feeder.spec, BatchKind.COPY_BEGIN, twice[:1], epoch=2),
        change_batch(feeder.spec, BatchKind.CHANGES, watermark=200, system_id=""),
        change_batch(feeder.spec, BatchKind.CHANGES, watermark=200, epoch=0),
    ):
        with pytest.raises(BadBatch):
            feeder.mirror.submit(body)
    feeder.send(BatchKind.COPY_BEGIN, epoch=2)
    for change in (Change(Op.DELETE, 1), feeder.upsert(1, state=UNCHANGED)):
        with pytest.raises(BadBatch):
            feeder.send(BatchKind.COPY, [change], epoch=2)


def test_waiting_for_an_lsn_ends_when_it_is_applied(feeder: Feeder) -> None:
    feeder.copy({1: A})
    with pytest.raises(StaleIndex) as caught:
        feeder.mirror.wait_applied(201, 0.01)
    assert (caught.value.applied_lsn, caught.value.wanted) == (100, 201)
    seen: list[int] = []
    feeder.mirror.add_waiter(201, lambda state: seen.append(state.applied_lsn))
    token = feeder.mirror.add_waiter(150, lambda state: seen.append(-1))
    feeder.mirror.remove_waiter(token)
    waiting = threading.Thread(target=lambda: feeder.mirror.wait_applied(201, 30))
    waiting.start()
    feeder.change(200, feeder.upsert(2, B))
    waiting.join()
    assert seen == [201]
    feeder.mirror.add_waiter(100, lambda state: seen.append(state.applied_lsn))
    assert seen == [201, 201]


def test_the_description_tells_where_the_index_is(feeder: Feeder) -> None:
    feeder.copy({1: A})
    feeder.change(200, feeder.upsert(2, B), source=1000)
    shown = feeder.mirror.describe()
    assert shown["rows"] == 2
    assert (shown["applied_lsn"], shown["durable_lsn"]) == ("0/C9", "0/C9")
    assert (shown["source_lsn"], shown["lag_bytes"]) == ("0/3E8", 1000 - 201)
    assert shown["lag_ms"] != 0.0
    feeder.send(BatchKind.CHANGES, watermark=1000)
    assert feeder.mirror.describe()["lag_ms"] == 0.0


def test_an_unexpected_error_stops_changes_and_leaves_searches(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeder.copy({1: A})

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(type(feeder.mirror._applier.contents.index), "add", fail)
        with pytest.raises(MirrorFailed):
            feeder.change(200, feeder.upsert(2, B))
    with pytest.raises(MirrorFailed):
        feeder.change(300, feeder.upsert(3, C))
    assert feeder.mirror.failed is not None
    hits = feeder.mirror.state.index.search(np.array([A], np.float32), 5)
    assert hits.ids[0].tolist() == [0, -1, -1, -1, -1]
    feeder.reopen()
    assert feeder.vectors() == {1: A, 2: B}


def test_batches_of_many_threads_are_applied_whole(feeder: Feeder) -> None:
    feeder.send(BatchKind.COPY_BEGIN)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((8, 500, 3)).astype(np.float32)
    bodies = [
        bulk_batch(feeder.spec, BatchKind.COPY, np.arange(500) + 500 * n, vectors[n])
        for n in range(8)
    ]
    threads = [threading.Thread(target=feeder.mirror.submit, args=(b,)) for b in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    feeder.send(BatchKind.COPY_END, watermark=100)
    expected = {n: tuple(v) for n, v in enumerate(vectors.reshape(-1, 3).tolist())}
    assert feeder.vectors() == expected
    feeder.reopen()
    assert feeder.vectors() == expected


def test_a_large_transaction_in_many_batches_is_one_step(feeder: Feeder) -> None:
    feeder.copy({})
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((20, 1000, 3)).astype(np.float32)
    for n in range(20):
        batch = ChangeBatch.from_ipc(
            bulk_batch(feeder.spec, BatchKind.CHANGES, np.arange(1000) + n * 1000, vectors[n])
        )
        rows = batch.rows.set_column(1, "commit_lsn", _u64(np.full(1000, 200)))
        rows = rows.set_column(2, "ordinal", _u32(np.arange(1000) + n * 1000))
        rows = rows.cast(change_rows(feeder.spec.table, []).schema)
        feeder.mirror.submit(_replace(batch, rows).to_ipc())
        assert feeder.mirror.state.n_rows == 0
    feeder.send(BatchKind.CHANGES, watermark=201)
    assert feeder.vectors() == {n: tuple(v) for n, v in enumerate(vectors.reshape(-1, 3).tolist())}


def _u64(values: Any) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.uint64())


def _u32(values: Any) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.uint32())


def _replace(batch: ChangeBatch, rows: Any) -> ChangeBatch:
    from dataclasses import replace

    return replace(batch, rows=rows, watermark_lsn=200)


def _excluded(feeder: Feeder) -> tuple[int, ...]:
    excluded = feeder.mirror.describe()["excluded"]
    assert isinstance(excluded, dict)
    return tuple(excluded.values())
