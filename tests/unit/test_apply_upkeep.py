"""What a mirror does by itself: train, encode, snapshot; searches and changes go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgsync.changes import BatchKind
from server.snapshot import listed
from tests.change_batches import bulk_batch, make_spec
from tests.fix_mirrors import Feeder

ROWS, DIM = 3000, 16


def vectors(rows: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that a background thread brings about; the test's timeout ends it."""
    while not condition():
        time.sleep(0.01)


def copied(path: Path, **options: Any) -> Feeder:
    spec = make_spec(columns=(), dim=DIM, train_from_rows=ROWS)
    feeder = Feeder(path, spec, **options)
    feeder.send(BatchKind.COPY_BEGIN)
    feeder.mirror.submit(bulk_batch(spec, BatchKind.COPY, np.arange(ROWS), vectors(ROWS)))
    feeder.send(BatchKind.COPY_END, watermark=100)
    return feeder


def test_an_index_trains_and_encodes_by_itself_when_it_has_enough_rows(tmp_path: Path) -> None:
    feeder = copied(tmp_path, background=True, encode_slice_rows=256)
    until(lambda: feeder.mirror.state.index.trained)
    more = bulk_batch(
        feeder.spec,
        BatchKind.CHANGES,
        np.arange(ROWS, ROWS + 500),
        vectors(500, 1),
        watermark=201,
        lsn=200,
    )
    feeder.mirror.submit(more)
    assert feeder.mirror.state.index.live_rows == ROWS + 500
    until(lambda: feeder.mirror.describe()["tail_rows"] == 0)
    until(lambda: feeder.mirror.describe()["training"] is None)
    state = feeder.mirror.state
    hits = state.index.search(vectors(500, 1)[:20], 1, exact=True)
    assert state.keys(hits.ids[:, 0]) == list(range(ROWS, ROWS + 20))
    feeder.reopen()
    assert feeder.mirror.state.index.live_rows == ROWS + 500
    feeder.mirror.close()


def test_a_trained_index_is_trained_after_a_restart(tmp_path: Path) -> None:
    feeder = copied(tmp_path, background=True)
    until(lambda: feeder.mirror.state.index.trained)
    feeder.mirror.snapshot()
    feeder.mirror.close()
    feeder = Feeder(tmp_path, feeder.spec, background=False)
    assert feeder.mirror.state.index.trained
    feeder.mirror.close()


def upserts(feeder: Feeder, first_key: int, values: Any, lsn: int) -> None:
    """Commit rows ``first_key``, ``first_key`` + 1, ... in one transaction."""
    keys = np.arange(first_key, first_key + len(values))
    body = bulk_batch(feeder.spec, BatchKind.CHANGES, keys, values, watermark=lsn + 1, lsn=lsn)
    feeder.mirror.submit(body)


def test_rows_that_drifted_are_trained_on_once(tmp_path: Path) -> None:
    feeder = copied(tmp_path, background=True, rest_factor=0.0)
    until(lambda: feeder.mirror.state.index.trained)
    upserts(feeder, ROWS, vectors(1000, 1) + 5, lsn=200)
    until(lambda: feeder.mirror.state.index.trained_part.live_rows == ROWS + 1000)  # type: ignore[union-attr]
    more = vectors(1600, 2)
    more[::4] += 5
    upserts(feeder, ROWS + 1000, more, lsn=300)
    until(lambda: feeder.mirror.describe()["tail_rows"] == 0)
    index = feeder.mirror.state.index
    assert index.live_rows == ROWS + 2600
    assert not index.training_due
    feeder.mirror.close()


def test_lists_are_rewritten_when_many_of_their_rows_are_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu.state.REWRITE_ROWS", 100)
    feeder = copied(tmp_path, background=True)
    until(lambda: feeder.mirror.state.index.trained)
    upserts(feeder, 0, vectors(1000, 1), lsn=200)
    until(lambda: feeder.mirror.describe()["dead_rows_in_lists"] == 0)
    state = feeder.mirror.state.index
    assert (state.n_rows, state.live_rows) == (ROWS + 1000, ROWS), "row ids stay as they are"
    hits = feeder.mirror.state.index.search(vectors(1000, 1)[:20], 1, exact=True)
    assert feeder.mirror.state.keys(hits.ids[:, 0]) == list(range(20))
    feeder.mirror.close()


def test_a_job_that_fails_is_not_tried_again_at_once_and_hurts_nothing(
    feeder: Feeder, capsys: pytest.CaptureFixture[str]
) -> None:
    upkeep = feeder.mirror._upkeep

    def fail() -> None:
        raise ZeroDivisionError

    assert upkeep._start("compaction", fail)
    until(lambda: upkeep.running() == [])
    assert not upkeep._may("compaction")
    assert upkeep._may("training")
    assert "compaction failed" in capsys.readouterr().out


def test_training_starts_when_asked_and_once_at_a_time(tmp_path: Path) -> None:
    feeder = copied(tmp_path)
    assert not feeder.mirror.state.index.trained
    assert feeder.mirror.start_training()
    assert not feeder.mirror.start_training()
    assert feeder.mirror.describe()["training"] is not None
    until(lambda: feeder.mirror.state.index.trained)
    feeder.mirror.close()


def test_training_of_an_empty_index_does_not_start(feeder: Feeder) -> None:
    assert not feeder.mirror.start_training()


def test_a_codec_of_replaced_rows_is_not_adopted(tmp_path: Path) -> None:
    from gpu.training import train

    feeder = copied(tmp_path)
    state = feeder.mirror.state
    trained = train(state.index)
    feeder.copy({}, epoch=state.epoch + 1)
    assert not feeder.mirror.adopt(trained, state.index)
    assert not feeder.mirror.state.index.trained
    feeder.mirror.close()


def test_closing_during_training_ends_it(tmp_path: Path) -> None:
    feeder = copied(tmp_path)
    assert feeder.mirror.start_training()
    feeder.mirror.close()
    assert feeder.mirror.describe()["training"] is None


def test_snapshots_come_with_journal_bytes(tmp_path: Path) -> None:
    feeder = Feeder(tmp_path, background=True, snapshot_bytes=20_000)
    feeder.copy({})
    number = 0
    while not listed(tmp_path / "snapshots"):
        number += 1
        feeder.change(1000 + number, feeder.upsert(number % 7, (1.0, 0.0, float(number))))
    assert number > 3
    feeder.mirror.close()


def test_snapshots_come_with_age_only_if_something_changed(tmp_path: Path) -> None:
    feeder = Feeder(tmp_path, snapshot_age_s=0.0)
    feeder.copy({1: (1.0, 0.0, 0.0)})
    assert feeder.mirror.snapshot_due()
    feeder.mirror.snapshot()
    assert not feeder.mirror.snapshot_due()
    feeder.change(200, feeder.upsert(2, (1.0, 0.0, 0.0)))
    assert feeder.mirror.snapshot_due()
    feeder.send(BatchKind.COPY_BEGIN, epoch=2)
    assert not feeder.mirror.snapshot_due(), "a snapshot during a copy would free nothing"
    feeder.mirror.close()
