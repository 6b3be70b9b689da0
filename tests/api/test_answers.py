"""Answers: the quick way to write JSON says what the plain way says."""

from __future__ import annotations

import json
import uuid
from typing import Any, NamedTuple, cast

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.answers import SearchJob, encode
from server.searching import SearchAnswer

KEYS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.uuids(),
    st.tuples(st.integers(0, 9), st.text(st.sampled_from('",\\[]{}é'), max_size=4)),
)
DISTANCES = st.floats(width=32) | st.sampled_from([float("nan"), float("inf"), 0.1, -0.0, 1e-30])


class KeysOnly(NamedTuple):
    """A state of which only the keys are asked."""

    known: list[Any]

    def keys(self, row_ids: np.ndarray[Any, Any]) -> list[Any]:
        return [self.known[row_id] for row_id in row_ids]


class Shape(NamedTuple):
    """What a job says about the form of its answer."""

    many: bool
    columns: tuple[str, ...] = ()
    with_vector: bool = False
    started_s: float = 0.0


def plainly(keys: list[Any], distances: np.ndarray[Any, Any]) -> Any:
    hits = [{"key": k, "distance": d} for k, d in zip(keys, distances, strict=True)]
    return json.loads(orjson.dumps(hits, option=orjson.OPT_SERIALIZE_NUMPY))


@pytest.mark.parametrize("many", [False, True])
@given(hits=st.lists(st.tuples(KEYS, DISTANCES), max_size=6), missing=st.integers(0, 3))
def test_keys_and_distances_are_written_as_one_by_one(
    hits: list[tuple[Any, float]], missing: int, many: bool
) -> None:
    keys = [key for key, _ in hits]
    distances = np.array([distance for _, distance in hits], np.float32)
    row_ids = np.concatenate([np.arange(len(hits)), np.full(missing, -1)])[None]
    padded = np.concatenate([distances, np.full(missing, np.inf, np.float32)])[None]
    answer = SearchAnswer(cast(Any, KeysOnly(keys)), row_ids, padded)
    body = encode(cast(SearchJob, Shape(many)), answer, b'"lag_ms":null')
    found = json.loads(body)
    assert found["lag_ms"] is None
    assert isinstance(found["took_ms"], float)
    (written,) = found["results"] if many else (found["hits"],)
    assert written == plainly(keys, distances)


def test_a_key_of_a_uuid_is_its_text() -> None:
    key = uuid.UUID(int=7)
    answer = SearchAnswer(
        cast(Any, KeysOnly([key])), np.zeros((1, 1), np.int64), np.ones((1, 1), np.float32)
    )
    body = encode(cast(SearchJob, Shape(many=False)), answer, b'"lag_ms":1.5')
    assert json.loads(body)["hits"] == [{"key": str(key), "distance": 1.0}]
