"""Searches over HTTP: the answers are those of brute force, in every form of request."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.api.conftest import DIM, Api, OpenApi, assert_problem
from tests.fix_feed import ItemFeed, item_columns

Vectors = NDArray[np.float32]


def _nearest(feed: ItemFeed, query: Vectors, k: int, metric: str = "l2") -> list[tuple[int, float]]:
    """Return (key, distance) of the k nearest rows, in float64."""
    rows, point = feed.vectors.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        distances = np.sqrt(((rows - point) ** 2).sum(axis=1))
    elif metric == "ip":
        distances = -(rows @ point)
    else:
        distances = 1 - rows @ point / np.linalg.norm(rows, axis=1) / np.linalg.norm(point)
    order = np.argsort(distances)[:k]
    return [(int(feed.ids[row]), float(distances[row])) for row in order]


def _assert_hits(hits: list[dict[str, Any]], expected: list[tuple[int, float]]) -> None:
    assert [hit["key"] for hit in hits] == [key for key, _ in expected]
    distances = [distance for _, distance in expected]
    np.testing.assert_allclose([hit["distance"] for hit in hits], distances, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_hits_are_those_of_brute_force(api: Api, rng: np.random.Generator, metric: str) -> None:
    feed = api.fill(200, metric=metric)
    query = rng.standard_normal(DIM).astype(np.float32)
    answer = api.search(vector=query.tolist(), k=7).json()
    _assert_hits(answer["hits"], _nearest(feed, query, 7, metric))
    assert set(answer) == {"hits", "applied_lsn", "lag_ms", "took_ms"}
    assert answer["applied_lsn"] == "0/1000"
    assert answer["lag_ms"] == 0


def test_a_batch_and_raw_bytes_give_the_same_results(api: Api, rng: np.random.Generator) -> None:
    feed = api.fill(100)
    queries = rng.standard_normal((5, DIM)).astype(np.float32)
    batch = api.search(vectors=queries.tolist(), k=3, columns=["category", "price"]).json()
    raw = _raw(api, queries, k=3, columns="category,price").json()
    assert batch["results"] == raw["results"]
    for query, hits in zip(queries, batch["results"], strict=True):
        _assert_hits(hits, _nearest(feed, query, 3))


def test_raw_bytes_take_every_option_in_the_query_string(api: Api) -> None:
    feed = api.fill(40)
    answer = _raw(
        api,
        feed.vectors[:1],
        k=2,
        filter="category = :c",
        params='{"c": "coffee"}',
        exact="true",
        with_vector="true",
        timeout_ms=5000,
        min_lsn="0/1000",
    )
    (hits,) = answer.json()["results"]
    assert len(hits) == 2
    for hit in hits:
        assert hit["key"] // 10 % 4 == 1
        np.testing.assert_array_equal(
            np.array(hit["vector"], np.float32), feed.vectors[hit["key"] // 10]
        )


def test_a_filtered_search_has_min_of_k_and_matches_hits(api: Api) -> None:
    feed = api.fill(40)
    vector = feed.vectors[0].tolist()
    teas = {int(key) for key in feed.ids if item_columns(int(key))["category"] == "tea"}
    assert len(teas) == 10
    some = api.search(vector=vector, k=4, filter="category = 'tea'").json()["hits"]
    assert len(some) == 4
    every = api.search(vector=vector, k=30, filter="category = $1", params=["tea"]).json()["hits"]
    assert {hit["key"] for hit in every} == teas
    none = api.search(vector=vector, filter="price < 0").json()["hits"]
    assert none == []


def test_more_rows_than_there_are_gives_all_of_them(api: Api) -> None:
    feed = api.fill(12)
    hits = api.search(vector=feed.vectors[0].tolist(), k=50).json()["hits"]
    assert sorted(hit["key"] for hit in hits) == feed.ids.tolist()


def test_columns_come_in_the_types_of_json(api: Api) -> None:
    feed = api.fill(4)
    hits = api.search(
        vector=feed.vectors[0].tolist(), columns=["category", "tags", "seen", "price"]
    ).json()["hits"]
    rows = {hit["key"]: hit["columns"] for hit in hits}
    assert rows[10] == {
        "category": "coffee",
        "tags": ["coffee", "t1"],
        "seen": "2000-01-01T00:00:01Z",
        "price": 0.5,
    }
    assert rows[20]["category"] is None
    assert rows[20]["tags"] == [None, "t2"]


def test_like_searches_by_a_row_and_leaves_it_out(api: Api) -> None:
    feed = api.fill(30)
    hits = api.search(like=70, k=5).json()["hits"]
    _assert_hits(hits, _nearest(feed, feed.vectors[7], 6)[1:])
    every = api.search(like=70, k=100).json()["hits"]
    assert sorted(hit["key"] for hit in every) == sorted(set(feed.ids.tolist()) - {70})
    teas = api.search(like=70, k=100, filter="category = 'water'").json()["hits"]
    assert {hit["key"] for hit in teas} == {
        int(key) for key in feed.ids if item_columns(int(key))["category"] == "water"
    } - {70}


@pytest.mark.parametrize("like", [75, "70", [70, 70], 2**70, -(2**63)])
def test_like_an_unknown_row_is_a_problem(api: Api, like: Any) -> None:
    api.fill(30)
    assert_problem(api.search(like=like), 404, "unknown-row")


def test_a_deleted_row_is_neither_found_nor_like_anything(api: Api) -> None:
    feed = api.fill(10)
    assert api.send(feed.delete([30])).status_code == 200
    hits = api.search(vector=feed.vectors[3].tolist(), k=10).json()["hits"]
    assert 30 not in {hit["key"] for hit in hits}
    assert_problem(api.search(like=30), 404, "unknown-row")


def test_an_updated_row_is_like_its_newest_version(api: Api) -> None:
    feed = api.fill(10)
    api.send(feed.upsert([30], feed.vectors[[4]]))
    (first, *_) = api.search(like=30).json()["hits"]
    assert first["key"] == 40
    assert first["distance"] == pytest.approx(0, abs=1e-6)


def test_a_distance_that_is_no_number_is_null(api: Api) -> None:
    feed = api.fill(3, metric="cosine")
    api.send(feed.upsert([30], np.zeros((1, DIM), np.float32)))
    hits = api.search(vector=feed.vectors[0].tolist(), k=4).json()["hits"]
    assert [hit["key"] for hit in hits][-1] == 30
    assert hits[-1]["distance"] is None


@pytest.mark.parametrize(
    "effort", [{"exact": True}, {"nprobe": 3}, {"recall_target": 0.9}, {"rerank": 100}]
)
def test_each_effort_answers(api: Api, effort: dict[str, Any]) -> None:
    feed = api.fill(50)
    hits = api.search(vector=feed.vectors[2].tolist(), k=3, **effort).json()["hits"]
    _assert_hits(hits, _nearest(feed, feed.vectors[2], 3))


def test_concurrent_searches_are_merged_and_each_gets_its_own_answer(open_api: OpenApi) -> None:
    api = open_api(server={"search_threads": 1, "max_batch_queries": 8})
    feed = api.fill(300)
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda row: api.search(vector=row.tolist(), k=1), feed.vectors[:100])
        keys = [answer.json()["hits"][0]["key"] for answer in answers]
    assert keys == feed.ids[:100].tolist()
    figures = api.client.get("/metrics").text
    assert 'vecmirror_searches_total{index="items",outcome="ok"} 100.0' in figures
    assert "vecmirror_batch_queries_sum 100.0" in figures


def _raw(api: Api, queries: Vectors, **options: Any) -> httpx.Response:
    return api.client.post(
        "/v1/indexes/items/search",
        params=options,
        content=queries.astype("<f4").tobytes(),
        headers={"content-type": "application/octet-stream"},
    )
