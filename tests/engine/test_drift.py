"""Drift: rows unlike those trained on are noticed; a training is asked for once, not for ever."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gpu import Backend, Index, IndexParams, compacted, train
from gpu.arrays import F32
from gpu.drift import Drift, Seen, imbalance_of

MakeTrained = Callable[[IndexParams, F32, Backend], Index]
DIM = 8


def cloud(n: int, seed: int, centre: float = 0.0, spread: float = 1.0) -> F32:
    rows = np.random.default_rng(seed).normal(size=(n, DIM)) * spread + centre
    return rows.astype(np.float32)


@pytest.fixture
def index(make_trained: MakeTrained, backend: Backend) -> Index:
    params = IndexParams(dim=DIM, metric="l2", nlist=16, m=4, train_from_rows=500)
    return make_trained(params, cloud(2000, 0), backend)


def add(index: Index, rows: F32) -> None:
    index.add(rows)
    index.publish()
    index.encode_pending(len(rows))


def test_rows_like_those_trained_on_do_not_make_training_due(index: Index) -> None:
    for seed in range(1, 9):
        add(index, cloud(500, seed))
    assert 0.9 < index.state.stats()["drift"]["error_ratio"] < 1.15  # type: ignore[index]
    assert not index.state.training_due


def test_replacing_every_row_by_others_of_the_same_kind_is_not_drift(index: Index) -> None:
    for seed in range(1, 5):
        add(index, cloud(500, seed))
        index.kill(np.flatnonzero(index.state.alive())[:500])
        index.publish()
    assert not index.state.training_due


@pytest.mark.parametrize(("centre", "spread"), [(3.0, 1.0), (0.0, 1.7)])
def test_rows_unlike_those_trained_on_make_training_due(
    centre: float, spread: float, index: Index
) -> None:
    add(index, cloud(300, 1, centre, spread))
    assert not index.state.training_due, "fifteen in a hundred are too few to act on"
    add(index, cloud(150, 2, centre, spread))
    assert index.state.training_due


def test_rows_that_crowd_into_few_lists_make_training_due(index: Index) -> None:
    add(index, cloud(1500, 1, 0.3, 0.1))
    drift = index.state.stats()["drift"]
    assert drift["error_ratio"] < 1.3  # type: ignore[index]
    assert drift["imbalance"] > 1.5 * drift["imbalance_at_training"]  # type: ignore[index]
    assert index.state.training_due


def test_rows_that_the_codec_cannot_represent_make_training_due(index: Index) -> None:
    add(index, np.concatenate([cloud(400, 1), cloud(20, 2, 0.0, 1e5)]))
    assert index.state.stats()["rows_aside"] == 20
    assert index.state.training_due


def test_a_training_on_drifted_rows_is_not_followed_by_another(index: Index) -> None:
    add(index, cloud(1000, 1, 3.0, 0.2))
    state = index.state
    assert state.training_due
    index.adopt(train(state))
    assert not index.state.training_due
    add(index, cloud(1000, 2, 3.0, 0.2)[:500])
    assert not index.state.training_due


def test_drift_survives_compaction_and_files(
    index: Index, tmp_path_factory: pytest.TempPathFactory, backend: Backend
) -> None:
    add(index, cloud(600, 1, 3.0))
    index.kill(np.arange(0, 2600, 2))
    figures = index.publish().trained_part.drift  # type: ignore[union-attr]
    path = tmp_path_factory.mktemp("drift") / "index"
    index.state.save(path)
    for other in (Index.load(path, backend), compacted(index.state)):
        assert other.state.trained_part.drift == figures  # type: ignore[union-attr]
        assert other.state.training_due


def test_imbalance_is_one_for_equal_lists_and_their_number_for_a_single_full_one() -> None:
    assert imbalance_of(np.full(7, 5)) == pytest.approx(1.0)
    assert imbalance_of(np.array([0, 9, 0])) == pytest.approx(3.0)
    assert imbalance_of(np.zeros(4, np.int64)) == 1.0


def test_without_knowledge_nothing_has_drifted() -> None:
    lengths = np.array([5, 5])
    assert Drift().error_ratio == 1.0
    assert not Drift().due(lengths)
    assert not Drift().plus(Seen(10, 1.0)).due(lengths)
    assert not Drift(trained=Seen(10, 0.0), since=Seen(10, 5.0)).due(lengths)
