"""Compaction: dead rows are forgotten while changes, searches, pins and snapshots go on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu.training import train
from pgsync.changes import BatchKind, Op, VectorState
from server.contents import Contents
from server.errors import ResyncRequired
from server.upkeep import UpkeepStopped
from tests.change_batches import COLUMNS, Change, bulk_batch, contents, make_spec
from tests.fix_mirrors import Feeder
from tests.unit.test_apply_upkeep import until

A, B, C = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def deleted(key: int) -> Change:
    return Change(Op.DELETE, key)


def churn(feeder: Feeder, keys: int = 5, rounds: int = 4, first_lsn: int = 200) -> None:
    """Update every key some times; each time leaves a dead row."""
    for number in range(rounds):
        vector = (float(number), 1.0, 2.0)
        changes = [feeder.upsert(key, vector) for key in range(keys)]
        feeder.change(first_lsn + number, *changes)


def test_row_ids_of_dead_rows_are_given_back(feeder: Feeder) -> None:
    feeder.copy(dict.fromkeys(range(5), A))
    churn(feeder)
    before = feeder.mirror.state
    held = contents(before)
    assert before.n_rows == 25
    assert feeder.mirror.compact()
    after = feeder.mirror.state
    assert (after.n_rows, after.applied_lsn) == (5, before.applied_lsn)
    assert contents(after) == held
    assert contents(before) == held, "a state published before serves on"
    assert feeder.mirror.describe()["dead_rows"] == 0


def test_texts_of_dead_rows_are_forgotten(tmp_path: Path) -> None:
    feeder = Feeder(tmp_path, make_spec())
    none: dict[str, Any] = dict.fromkeys(column.name for column in COLUMNS)
    feeder.copy({})
    for number in range(20):
        columns = {**none, "name": f"text {number}", "tags": [f"tag {number}"]}
        state = VectorState.NULL if number % 2 else VectorState.PRESENT
        vector = A if state is VectorState.PRESENT else None
        change = feeder.upsert(number % 4, vector, state=state, columns=columns)
        feeder.change(200 + number, change)
    held, excluded = contents(feeder.mirror.state), feeder.mirror.describe()["excluded"]
    assert feeder.mirror.compact()
    assert contents(feeder.mirror.state) == held
    assert feeder.mirror.describe()["excluded"] == excluded
    texts = feeder.mirror.state.column("name").dictionary
    assert texts is not None
    assert len(texts) == 1 + 4, "the empty string, and a text for each of four rows"
    feeder.mirror.close()


def test_counters_of_changes_go_on(feeder: Feeder) -> None:
    feeder.copy(dict.fromkeys(range(5), A))
    churn(feeder)
    before = feeder.mirror.describe()["changes"]
    feeder.mirror.compact()
    assert feeder.mirror.describe()["changes"] == before


def test_changes_that_come_meanwhile_are_in_the_compacted_contents(feeder: Feeder) -> None:
    feeder.copy(dict.fromkeys(range(5), A))
    churn(feeder)
    compaction = feeder.mirror.begin_compaction()
    feeder.change(300, feeder.upsert(1, B), feeder.upsert(7, C))
    compaction.build()
    feeder.change(310, feeder.upsert(9, B), deleted(2))
    compaction.catch_up()
    feeder.change(320, feeder.upsert(3, state=VectorState.NULL))
    feeder.send(BatchKind.CHANGES, [feeder.upsert(0, C, lsn=330)], watermark=330)
    held = contents(feeder.mirror.state)
    assert feeder.mirror.end_compaction(compaction)
    assert contents(feeder.mirror.state) == held
    assert feeder.mirror.state.applied_lsn == 330
    feeder.send(BatchKind.CHANGES, watermark=331)
    assert feeder.vectors()[0] == C, "what was staged before becomes visible after"
    assert feeder.mirror.state.n_rows == 5 + 2 + 1 + 1, "the rows, and what died meanwhile"


def test_a_compaction_of_rows_that_a_copy_replaced_is_thrown_away(feeder: Feeder) -> None:
    feeder.copy({1: A})
    compaction = feeder.mirror.begin_compaction()
    compaction.build()
    feeder.copy({2: B}, watermark=400, epoch=2)
    assert not feeder.mirror.end_compaction(compaction)
    assert feeder.vectors() == {2: B}


def test_a_compaction_can_end_while_a_copy_runs(feeder: Feeder) -> None:
    feeder.copy({1: A})
    feeder.change(200, feeder.upsert(1, B))
    compaction = feeder.mirror.begin_compaction()
    feeder.send(BatchKind.COPY_BEGIN, epoch=2)
    feeder.send(BatchKind.COPY, [feeder.upsert(5, C)], epoch=2)
    compaction.build()
    assert feeder.mirror.end_compaction(compaction)
    assert feeder.vectors() == {1: B}
    feeder.send(BatchKind.COPY_END, watermark=400, epoch=2)
    assert feeder.vectors() == {5: C}


def test_a_pin_keeps_its_state_and_holds_through_a_compaction(feeder: Feeder) -> None:
    feeder.copy(dict.fromkeys(range(3), A))
    churn(feeder, keys=3)
    fixed = feeder.mirror.pin()
    feeder.mirror.fix(fixed.id, 204)
    rows = [batch.to_pydict() for batch in feeder.mirror.pin_rows(fixed.id)]
    holding = feeder.mirror.pin()
    feeder.change(300, feeder.upsert(1, C))
    assert feeder.mirror.compact()
    assert feeder.vectors()[1] != C, "nothing becomes visible while a pin holds"
    feeder.mirror.unpin(holding.id)
    assert feeder.vectors()[1] == C
    assert [batch.to_pydict() for batch in feeder.mirror.pin_rows(fixed.id)] == rows


def test_a_refused_change_is_not_in_the_compacted_contents_either(feeder: Feeder) -> None:
    feeder.copy({1: A})
    compaction = feeder.mirror.begin_compaction()
    compaction.build()
    feeder.change(200, feeder.upsert(2, B))
    with pytest.raises(ResyncRequired):
        feeder.change(210, feeder.upsert(9, state=VectorState.UNCHANGED))
    assert feeder.mirror.end_compaction(compaction)
    assert feeder.mirror.state.phase == "resync"
    assert feeder.vectors() == {1: A, 2: B}


def test_a_compaction_that_fails_changes_nothing(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeder.copy({1: A})
    churn(feeder, keys=2)
    compaction = feeder.mirror.begin_compaction()
    compaction.build()
    feeder.change(300, feeder.upsert(4, C))
    held = feeder.vectors()

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Contents, "apply", fail)
        with pytest.raises(MemoryError):
            feeder.mirror.end_compaction(compaction)
    feeder.change(310, feeder.upsert(5, C))
    assert feeder.vectors() == {**held, 5: C}
    assert feeder.mirror.compact()
    assert feeder.vectors() == {**held, 5: C}


def test_a_compaction_that_is_stopped_changes_nothing(feeder: Feeder) -> None:
    feeder.copy(dict.fromkeys(range(5), A))
    churn(feeder)
    state = feeder.mirror.state

    def stop() -> None:
        raise UpkeepStopped

    with pytest.raises(UpkeepStopped):
        feeder.mirror.compact(stop)
    assert feeder.mirror.state is state


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_snapshot_at_any_time_of_a_compaction_restores_the_same_rows(
    when: str, feeder: Feeder
) -> None:
    feeder.copy(dict.fromkeys(range(5), A))
    churn(feeder)
    if when == "before":
        feeder.mirror.snapshot()
    compaction = feeder.mirror.begin_compaction()
    compaction.build()
    feeder.change(300, feeder.upsert(3, C))
    if when == "during":
        feeder.mirror.snapshot()
    assert feeder.mirror.end_compaction(compaction)
    if when == "after":
        feeder.mirror.snapshot()
    feeder.change(310, feeder.upsert(4, B))
    held = feeder.vectors()
    feeder.reopen()
    assert feeder.vectors() == held
    assert feeder.mirror.state.applied_lsn == 311
    assert (feeder.mirror.state.n_rows <= 5 + 2) == (when == "after")


def test_codec_and_codes_stay_and_the_tail_is_encoded(tmp_path: Path) -> None:
    rows, dim = 2000, 16
    spec = make_spec(columns=(), dim=dim, train_from_rows=rows)
    feeder = Feeder(tmp_path, spec)
    vectors = np.random.default_rng(0).standard_normal((rows, dim)).astype(np.float32)
    feeder.send(BatchKind.COPY_BEGIN)
    feeder.mirror.submit(bulk_batch(spec, BatchKind.COPY, np.arange(rows), vectors))
    feeder.send(BatchKind.COPY_END, watermark=100)
    state = feeder.mirror.state
    feeder.mirror.adopt(train(state.index), state.index)
    half = bulk_batch(
        spec, BatchKind.CHANGES, np.arange(1000), vectors[:1000] * 2, watermark=201, lsn=200
    )
    feeder.mirror.submit(half)
    before = feeder.mirror.state
    assert feeder.mirror.compact()
    after = feeder.mirror.state
    assert (after.n_rows, after.index.trained) == (rows, True)
    assert before.index.trained_part is not None
    assert after.index.trained_part is not None
    assert after.index.trained_part.codec is before.index.trained_part.codec
    old, new = (state.index.search(vectors[:50], 5, exact=True) for state in (before, after))
    assert before.keys(old.ids.ravel()) == after.keys(new.ids.ravel())
    feeder.mirror.close()


def test_training_and_lists_of_rows_that_were_compacted_are_not_adopted(feeder: Feeder) -> None:
    feeder.copy({key: (float(key), 1.0, 2.0) for key in range(50)})
    index = feeder.mirror.state.index
    trained = train(index)
    feeder.change(200, deleted(7))
    assert feeder.mirror.compact()
    assert not feeder.mirror.adopt(trained, index)


def test_an_index_forgets_dead_rows_by_itself_while_changes_and_searches_go_on(
    tmp_path: Path,
) -> None:
    feeder = Feeder(tmp_path, background=True, compact_dead_rows=40, rest_factor=0.0)
    feeder.copy(dict.fromkeys(range(10), A))
    stop, wrong = threading.Event(), []

    def search() -> None:
        while not stop.is_set():
            state = feeder.mirror.state
            hits = state.index.search(np.ones((1, 3), np.float32), 10)
            keys = state.keys(hits.ids[0])
            if sorted(keys) != list(range(10)):
                wrong.append(keys)

    searcher = threading.Thread(target=search)
    searcher.start()
    compactions, last = 0, 0
    lsn = 200
    while compactions < 3:
        churn(feeder, keys=10, rounds=1, first_lsn=lsn)
        feeder.change(lsn + 1, feeder.upsert(lsn % 10, (float(lsn), 1.0, 2.0)))
        lsn += 10
        n_rows = feeder.mirror.state.n_rows
        compactions += n_rows < last
        last = n_rows
    stop.set()
    searcher.join()
    assert wrong == []
    held = feeder.vectors()
    feeder.reopen()
    assert feeder.vectors() == held
    feeder.mirror.close()


def test_compaction_is_due_by_number_and_share_of_dead_rows(tmp_path: Path) -> None:
    feeder = Feeder(tmp_path, compact_dead_rows=9, compact_dead_share=0.5)
    feeder.copy(dict.fromkeys(range(10), A))
    churn(feeder, keys=9, rounds=1)
    assert not feeder.mirror.compaction_due(), "nine are not more than nine"
    feeder.change(300, feeder.upsert(9, B))
    assert not feeder.mirror.compaction_due(), "half is not more than half"
    feeder.change(310, feeder.upsert(9, C))
    assert feeder.mirror.compaction_due()
    feeder.mirror.compact()
    assert not feeder.mirror.compaction_due()
    feeder.mirror.close()


def test_one_job_that_makes_the_index_anew_runs_at_a_time(tmp_path: Path) -> None:
    feeder = Feeder(tmp_path)
    feeder.copy(dict.fromkeys(range(5), A))
    go_on = threading.Event()

    def work() -> None:
        go_on.wait(60)

    assert feeder.mirror._upkeep._start("compaction", work)
    assert feeder.mirror.describe()["upkeep"] == ["compaction"]
    assert not feeder.mirror.start_training()
    go_on.set()
    until(lambda: feeder.mirror.describe()["upkeep"] == [])
    assert feeder.mirror.start_training()
    feeder.mirror.close()
