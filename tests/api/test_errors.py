"""Every error is one problem document with a sentence that says what to do."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.conftest import DIM, Api, OpenApi, assert_problem
from tests.fix_feed import ITEMS, ItemFeed

GOOD = [0.5] * DIM


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        ({"vector": [1.0, 2.0]}, 422, "wrong-dimension", "vectors of 8 components"),
        ({"vectors": [GOOD, [1.0]]}, 422, "wrong-dimension", "the query has 1"),
        ({"vector": [1e39, *GOOD[1:]]}, 422, "not-finite", "Component 0 of query vector 0"),
        ({"vector": GOOD, "k": 0}, 422, "invalid-request", "greater than or equal to 1"),
        ({"vector": GOOD, "k": 10_001}, 422, "invalid-request", "at most 10000"),
        ({"vector": GOOD, "k": "5"}, 422, "invalid-request", "valid integer"),
        ({"vector": GOOD, "columns": ["nope"]}, 422, "unknown-column", "'nope'"),
        ({"vector": GOOD, "filter": "nope = 1"}, 422, "bad-filter", "nope"),
        ({"vector": GOOD, "filter": "price <"}, 422, "bad-filter", ""),
        ({"vector": GOOD, "filter": "price = $1"}, 422, "bad-filter", "$1"),
        ({"vector": GOOD, "params": [1]}, 422, "invalid-request", "params need a filter"),
        ({"vector": GOOD, "kk": 1}, 422, "invalid-request", "kk: there is no such member"),
        ({"k": 1}, 422, "invalid-request", "exactly one of vector, vectors and like"),
        ({"vector": GOOD, "like": 1}, 422, "invalid-request", "exactly one"),
        ({"vector": GOOD, "exact": True, "nprobe": 1}, 422, "invalid-request", "at most one"),
        ({"vector": GOOD, "recall_target": 1.5}, 422, "invalid-request", "less than or equal"),
        ({"vector": GOOD, "timeout_ms": 10**9}, 422, "invalid-request", "max_search_timeout_ms"),
        ({"vector": GOOD, "min_lsn": "here"}, 422, "invalid-request", "min_lsn"),
        ({"vector": GOOD, "consistency": "strong"}, 422, "no-source", "source.dsn"),
        ({"vectors": [GOOD] * 1001}, 422, "invalid-request", "at most 1000"),
        ({"vectors": [GOOD] * 101, "k": 10_000}, 422, "invalid-request", "at most 1000000"),
        ({"vector": []}, 422, "invalid-request", "vector"),
        ({"vector": ["a"] * DIM}, 422, "invalid-request", "valid number"),
        ({"vector": [None] * DIM}, 422, "invalid-request", "valid number"),
        ([], 422, "invalid-request", "object"),
    ],
)
def test_a_wrong_search_is_explained(
    filled: Api, body: Any, status: int, code: str, says: str
) -> None:
    answer = filled.client.post("/v1/indexes/items/search", json=body)
    assert says in assert_problem(answer, status, code)["detail"]


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_component_that_is_no_finite_number_is_refused(filled: Api, text: str) -> None:
    body = '{"vector": [' + ", ".join([text] + ["1"] * (DIM - 1)) + "]}"
    problem = assert_problem(_post(filled, body), 422, "not-finite")
    assert "Component 0" in problem["detail"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_raw_vectors_that_are_not_finite_are_refused(filled: Api, value: float) -> None:
    queries = np.ones((3, DIM), "<f4")
    queries[1, 2] = value
    answer = _post(filled, queries.tobytes(), "application/octet-stream")
    assert "Component 2 of query vector 1" in assert_problem(answer, 422, "not-finite")["detail"]


@pytest.mark.parametrize("body", [b"", b"abc", np.ones(DIM + 1, "<f4").tobytes()])
def test_raw_vectors_of_another_length_are_refused(filled: Api, body: bytes) -> None:
    answer = _post(filled, body, "application/octet-stream")
    assert assert_problem(answer, 422, "wrong-dimension")["expected"] == DIM


@pytest.mark.parametrize("body", ["", "{", "vector", '{"vector": [1, ]}', b"\xff\xfe"])
def test_broken_json_is_explained(filled: Api, body: str | bytes) -> None:
    assert "not JSON" in assert_problem(_post(filled, body), 400, "malformed-body")["detail"]


def test_another_media_type_is_refused(filled: Api) -> None:
    problem = assert_problem(_post(filled, "a=1", "text/plain"), 415, "unsupported-media-type")
    assert "application/json or application/octet-stream" in problem["detail"]


@pytest.mark.parametrize("query", ["k=0", "k=x", "kk=1", "k=1&k=2", "params=%7B", "min_lsn=0"])
def test_a_wrong_query_string_beside_raw_vectors_is_explained(filled: Api, query: str) -> None:
    body = np.ones(DIM, "<f4").tobytes()
    answer = _post(filled, body, "application/octet-stream", query)
    assert_problem(answer, 422, "invalid-request")


def test_a_query_string_beside_json_is_refused_and_not_ignored(filled: Api) -> None:
    body = json.dumps({"vector": GOOD})
    assert_problem(_post(filled, body, query="k=3"), 422, "invalid-request")


def test_an_unknown_index_is_explained(filled: Api) -> None:
    for answer in (
        filled.search("nope", vector=GOOD),
        filled.client.get("/v1/indexes/nope"),
        filled.client.delete("/v1/indexes/nope"),
        filled.client.post("/v1/indexes/nope/train"),
        filled.client.post("/v1/indexes/nope/snapshot"),
        filled.client.post("/v1/indexes/nope/pins"),
        filled.client.get("/v1/indexes/nope/pins/1"),
        filled.send(b"", "nope"),
    ):
        problem = assert_problem(answer, 404, "unknown-index")
        assert "vecmirror attach" in problem["detail"]
    assert "nope" not in filled.client.get("/metrics").text


def test_a_path_or_method_nobody_has_is_explained(filled: Api) -> None:
    assert "GET /docs" in assert_problem(filled.client.get("/v2"), 404, "no-such-route")["detail"]
    assert_problem(filled.client.get("/v1/indexes/"), 404, "no-such-route")
    answer = filled.client.put("/v1/indexes")
    assert_problem(answer, 405, "method-not-allowed")
    assert "POST" in answer.headers["allow"] or "GET" in answer.headers["allow"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_huge_body_is_refused_announced_or_not(open_api: OpenApi, chunked: bool) -> None:
    api = open_api(server={"max_body_bytes": 1000, "max_changes_body_bytes": 2000})
    assert api.create().status_code == 201
    for path, size in (("search", 1001), ("changes", 2001)):
        body = b" " * size
        answer = api.client.post(
            f"/v1/indexes/items/{path}",
            content=_chunks(body) if chunked else body,
            headers={"content-type": _TYPES[path]},
        )
        problem = assert_problem(answer, 413, "body-too-large")
        assert problem["limit_bytes"] == size - 1
        assert "server.max_" in problem["detail"]
    assert api.client.get("/livez").status_code == 200  # the connection is still good


_TYPES = {"search": "application/json", "changes": "application/vnd.apache.arrow.stream"}


def _chunks(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 100):
        yield body[start : start + 100]


@pytest.mark.parametrize(
    ("change", "status", "code", "says"),
    [
        ({"name": "Not Allowed"}, 422, "bad-name", "an index name is"[3:]),
        ({"table": {}}, 422, "invalid-request", "table.schema: field required"),
        ({"metric": "dot"}, 422, "invalid-request", "metric"),
        ({"extra": 1}, 422, "invalid-request", "extra: there is no such member"),
        ({"params": {"m": 0}}, 422, "invalid-request", "params.m"),
        (
            {"table": {**ITEMS.to_json(), "key": [{"name": "x", "type": "float8"}]}},
            422,
            "invalid-request",
            "key column has a type",
        ),
        ({"table": {**ITEMS.to_json(), "dim": 16_001}}, 422, "invalid-request", "table.dim"),
        ({"table": {**ITEMS.to_json(), "key": []}}, 422, "invalid-request", "table.key"),
    ],
)
def test_a_wrong_index_is_explained(
    filled: Api, change: dict[str, Any], status: int, code: str, says: str
) -> None:
    body = {"name": "items", "table": ITEMS.to_json()} | change
    answer = filled.client.post("/v1/indexes", json=body)
    assert says in assert_problem(answer, status, code)["detail"]


def test_a_second_index_of_the_same_name_is_refused(filled: Api) -> None:
    assert_problem(filled.create(), 409, "index-exists")


@pytest.mark.parametrize("body", [b"", b"not arrow", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"\0" * 64])
def test_what_is_no_change_batch_is_refused(filled: Api, body: bytes) -> None:
    assert_problem(filled.send(body), 400, "bad-batch")


def test_a_change_batch_has_its_own_media_type(filled: Api) -> None:
    answer = filled.client.post("/v1/indexes/items/changes", json={})
    assert_problem(answer, 415, "unsupported-media-type")


def test_a_batch_of_an_older_copy_tells_the_feed_to_copy_anew(api: Api) -> None:
    assert api.create().status_code == 201
    newer = ItemFeed(3, epoch=2)
    for body in newer.copy():
        assert api.send(body).status_code == 200
    problem = assert_problem(api.send(ItemFeed(3).heartbeat()), 409, "stale-epoch")
    assert (problem["retry"], problem["epoch"], problem["current"]) == ("resync", 1, 2)


def test_an_unknown_pin_is_explained(filled: Api) -> None:
    for method in ("GET", "DELETE"):
        answer = filled.client.request(method, "/v1/indexes/items/pins/nope")
        assert_problem(answer, 404, "unknown-pin")
    answer = filled.client.put("/v1/indexes/items/pins/nope", json={"lsn": "0/1"})
    assert_problem(answer, 404, "unknown-pin")


def test_a_callers_request_id_is_kept_when_it_is_harmless(filled: Api) -> None:
    good = filled.client.get("/v2", headers={"x-request-id": "abc-123"})
    assert good.headers["x-request-id"] == good.json()["request_id"] == "abc-123"
    bad = filled.client.get("/v2", headers={"x-request-id": 'a" b{}'})
    assert bad.headers["x-request-id"] != 'a" b{}'
    assert filled.client.get("/livez").headers["x-request-id"]


def test_a_client_that_goes_away_in_its_body_is_no_fault_of_the_server(filled: Api) -> None:
    url = filled.client.base_url
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(
            b"POST /v1/indexes/items/search HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
    deadline = time.monotonic() + 10
    while 'status="499"' not in filled.client.get("/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert 'status="500"' not in filled.client.get("/metrics").text


def _post(
    api: Api, body: str | bytes, content_type: str = "application/json", query: str = ""
) -> httpx.Response:
    return api.client.post(
        f"/v1/indexes/items/search?{query}", content=body, headers={"content-type": content_type}
    )
