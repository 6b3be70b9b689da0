"""Index and IndexState: what becomes visible when, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from gpu import Backend, BadInput, Index, IndexFull, IndexParams
from gpu import rows as rows_module
from gpu.arrays import AnyArray


def small(backend: Backend, **options: object) -> Index:
    return Index(IndexParams(dim=2, metric="l2", **options), backend)  # type: ignore[arg-type]


def test_adds_and_kills_become_visible_at_publish_and_not_before(backend: Backend) -> None:
    index = small(backend)
    first = index.add(np.eye(2, dtype=np.float32))
    np.testing.assert_array_equal(first, [0, 1])
    assert index.state.n_rows == 0
    before = index.publish()
    np.testing.assert_array_equal(index.add(np.ones((1, 2), np.float32)), [2])
    index.kill(np.array([0]))
    assert (index.state.n_rows, index.state.live_rows) == (2, 2)
    after = index.publish()
    assert (after.n_rows, after.live_rows) == (3, 2)
    np.testing.assert_array_equal(after.alive(), [False, True, True])
    np.testing.assert_array_equal(before.alive(), [True, True])


def test_a_state_once_published_answers_the_same_for_ever(backend: Backend) -> None:
    index = small(backend)
    index.add(np.array([[1, 0], [2, 0]], np.float32))
    old = index.publish()
    query = np.zeros((1, 2), np.float32)
    answer = old.search(query, 3)
    index.kill(np.array([0]))
    index.add(np.zeros((100_000, 2), np.float32))
    index.publish()
    again = old.search(query, 3)
    np.testing.assert_array_equal(answer.ids, again.ids)
    np.testing.assert_array_equal(answer.distances, again.distances)


def test_an_unpublished_row_can_be_killed(backend: Backend) -> None:
    index = small(backend)
    index.kill(index.add(np.ones((3, 2), np.float32))[1:])
    state = index.publish()
    np.testing.assert_array_equal(state.search(np.ones((1, 2), np.float32), 3).ids, [[0, -1, -1]])


def test_killing_twice_counts_once(backend: Backend) -> None:
    index = small(backend)
    index.add(np.ones((3, 2), np.float32))
    index.kill(np.array([1, 1]))
    index.kill(np.array([1]))
    assert index.publish().live_rows == 2


@pytest.mark.parametrize("row_ids", [np.array([3]), np.array([-1]), np.array([[0]]), np.ones(1)])
def test_killing_what_is_no_row_id_is_refused(row_ids: AnyArray, backend: Backend) -> None:
    index = small(backend)
    index.add(np.ones((3, 2), np.float32))
    with pytest.raises(BadInput):
        index.kill(row_ids)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_component_that_is_not_finite_is_refused_and_nothing_added(
    value: float, backend: Backend
) -> None:
    index = small(backend)
    rows = np.ones((4, 2), np.float32)
    rows[3, 1] = value
    with pytest.raises(BadInput, match="not finite"):
        index.add(rows)
    np.testing.assert_array_equal(index.add(rows[:1]), [0])
    assert index.publish().n_rows == 1


def test_values_beyond_float16_are_refused_where_rows_are_float16(backend: Backend) -> None:
    with pytest.raises(BadInput, match="float16"):
        small(backend, raw_dtype="float16").add(np.full((1, 2), 7e4, np.float32))


def test_vectors_of_another_dimension_are_refused(backend: Backend) -> None:
    with pytest.raises(BadInput, match=r"\[n, 2\]"):
        small(backend).add(np.ones((1, 3), np.float32))


def test_row_numbers_can_run_out(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "MAX_ROWS", 5)
    index = small(backend)
    index.add(np.ones((4, 2), np.float32))
    with pytest.raises(IndexFull):
        index.add(np.ones((2, 2), np.float32))
    assert index.publish().n_rows == 4


def test_vectors_gives_rows_as_stored_dead_or_alive(backend: Backend) -> None:
    index = small(backend)
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    index.kill(index.add(rows)[:2])
    state = index.publish()
    np.testing.assert_array_equal(state.vectors(np.array([3, 0, 3])), rows[[3, 0, 3]])
    with pytest.raises(BadInput):
        state.vectors(np.array([4]))


def test_encoding_without_a_codec_does_nothing(backend: Backend) -> None:
    index = small(backend)
    index.add(np.ones((3, 2), np.float32))
    index.publish()
    assert index.encode_pending(10) == 0
    assert not index.state.trained


def test_training_is_due_from_the_given_number_of_live_rows(backend: Backend) -> None:
    index = small(backend, train_from_rows=3)
    index.add(np.ones((3, 2), np.float32))
    assert index.publish().training_due
    index.kill(np.array([0]))
    assert not index.publish().training_due
