"""Searches answered straight from the connection: as the application would, and in order."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from server.api.direct import DirectProtocol
from tests.api.conftest import DIM, Api, OpenApi, running_api

#: Members of an answer that differ from one to the next.
PASSING = ("took_ms", "request_id", "lag_ms")


class Both(NamedTuple):
    """The same rows behind both ways of answering."""

    direct: Api
    framed: Api


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with (
        running_api(tmp_path_factory.mktemp("direct")) as direct,
        running_api(tmp_path_factory.mktemp("framed"), direct=False) as framed,
    ):
        for api in (direct, framed):
            api.fill(40)
        yield Both(direct, framed)


VECTOR = [0.25] * DIM
BODIES: dict[str, Any] = {
    "plain": {"vector": VECTOR},
    "k": {"vector": VECTOR, "k": 3},
    "whole numbers": {"vector": [1] * DIM},
    "columns": {"vector": VECTOR, "columns": ["category", "price", "category"]},
    "vector back": {"vector": VECTOR, "k": 2, "with_vector": True},
    "filter": {"vector": VECTOR, "filter": "category = $1", "params": ["tea"]},
    "no match": {"vector": VECTOR, "filter": "price < 0"},
    "several": {"vectors": [VECTOR, [0.5] * DIM], "k": 2},
    "like": {"like": 70, "k": 4},
    "exact": {"vector": VECTOR, "exact": True},
    "position": {"vector": VECTOR, "min_lsn": "0/1000"},
    "time": {"vector": VECTOR, "timeout_ms": 5000},
    "empty": {},
    "null": None,
    "list": [1, 2],
    "short": {"vector": [1.0]},
    "no vector": {"vector": []},
    "true for a number": {"vector": [True] * DIM},
    "text for a number": {"vector": ["1"] * DIM},
    "too large for float32": {"vector": [1e39] * DIM},
    "too large for float64": {"vector": [10**400] * DIM},
    "both": {"vector": VECTOR, "like": 70},
    "misspelt": {"vector": VECTOR, "kk": 3},
    "k of text": {"vector": VECTOR, "k": "3"},
    "k of zero": {"vector": VECTOR, "k": 0},
    "two efforts": {"vector": VECTOR, "exact": True, "nprobe": 3},
    "large k": {"vector": VECTOR, "k": 10**6},
    "bad filter": {"vector": VECTOR, "filter": "price >"},
    "params alone": {"vector": VECTOR, "params": [1]},
    "no column": {"vector": VECTOR, "columns": ["colour"]},
    "future": {"vector": VECTOR, "min_lsn": "1/0", "timeout_ms": 50},
    "strong": {"vector": VECTOR, "consistency": "strong"},
}
QUERY_STRINGS = [
    "",
    "k=3",
    "k=3&columns=category,price",
    "filter=category%20%3D%20%24c&params=x",
    "filter=category%20%3D%20%3Ac&params=%7B%22c%22%3A%22tea%22%7D",
    "k=3&k=4",
    "k=x",
    "exact=true",
    "nothing=1",
]


def post(api: Api, content: bytes, query: str = "", **headers: str) -> httpx.Response:
    path = "/v1/indexes/items/search" + (f"?{query}" if query else "")
    return api.client.post(path, content=content, headers=headers)


def lasting(answer: httpx.Response) -> tuple[int, str, Any]:
    body = answer.json()
    kept = {name: value for name, value in body.items() if name not in PASSING}
    assert len(answer.headers["x-request-id"]) == 32
    return answer.status_code, answer.headers["content-type"], kept


@pytest.mark.parametrize("case", BODIES)
def test_json_is_answered_as_by_the_application(both: Both, case: str) -> None:
    content = json.dumps(BODIES[case]).encode()
    direct, framed = (
        lasting(post(api, content, **{"content-type": "application/json"})) for api in both
    )
    assert direct == framed


@pytest.mark.parametrize("query", QUERY_STRINGS)
def test_raw_bytes_are_answered_as_by_the_application(both: Both, query: str) -> None:
    content = np.ones((2, DIM), "<f4").tobytes()
    direct, framed = (
        lasting(post(api, content, query, **{"content-type": "application/octet-stream"}))
        for api in both
    )
    assert direct == framed


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b'{"vector": [1, 2', {"content-type": "application/json"}),
        (b'{"vector": [NaN]}', {"content-type": "application/json"}),
        (b"\xff\xfe", {"content-type": "application/json; charset=utf-8"}),
        (b"", {"content-type": "application/json"}),
        (b"12345", {"content-type": "application/octet-stream"}),
        (np.full(DIM, np.nan, "<f4").tobytes(), {"content-type": "application/octet-stream"}),
        (b"{}", {"content-type": "text/plain"}),
        (json.dumps({"vector": VECTOR}).encode(), {}),
    ],
)
def test_mistakes_are_reported_as_by_the_application(
    both: Both, content: bytes, headers: dict[str, str]
) -> None:
    direct, framed = (lasting(post(api, content, **headers)) for api in both)
    assert direct == framed


def test_a_plain_search_never_meets_the_application(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: DirectProtocol, *_: object) -> None:
        raise AssertionError("handed over")

    monkeypatch.setattr(DirectProtocol, "_start_asgi_task", never)
    for case in ("plain", "k", "columns", "vector back", "filter", "several", "like", "position"):
        assert both.direct.search(**BODIES[case]).status_code == 200
    raw = {"content-type": "application/octet-stream"}
    assert post(both.direct, np.ones(DIM, "<f4").tobytes(), "k=3", **raw).status_code == 200


def request_bytes(k: int, *headers: str) -> bytes:
    body = json.dumps({"vector": VECTOR, "k": k}).encode()
    lines = [
        "POST /v1/indexes/items/search HTTP/1.1",
        "host: here",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def answers_of(api: Api, sent: list[bytes], count: int) -> list[tuple[bytes, Any]]:
    """Send pieces on one connection; return the heads and bodies of ``count`` answers."""
    found: list[tuple[bytes, Any]] = []
    url, data = api.client.base_url, b""
    with socket.create_connection((url.host, url.port or 0), 10) as connection:
        for piece in sent:
            connection.sendall(piece)
        while len(found) < count:
            part = connection.recv(1 << 16)
            assert part, "closed too early"
            data += part
            while b"\r\n\r\n" in data:
                head, _, rest = data.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                if len(rest) < length:
                    break
                found.append((head, json.loads(rest[:length])))
                data = rest[length:]
        if b"connection: close" in found[-1][0]:
            assert connection.recv(1) == b""
    return found


def test_requests_sent_at_once_are_answered_in_their_order(both: Both) -> None:
    other = b"GET /livez HTTP/1.1\r\nhost: here\r\n\r\n"
    pieces = [request_bytes(1) + request_bytes(2) + other + request_bytes(3)]
    bodies = [body for _, body in answers_of(both.direct, pieces, 4)]
    assert [len(body["hits"]) for body in bodies if "hits" in body] == [1, 2, 3]
    assert bodies[2] == {"status": "ok", "reasons": []} | bodies[2]


def test_a_request_may_come_byte_by_byte(both: Both) -> None:
    whole = request_bytes(2, "x-request-id: mine")
    ((head, body),) = answers_of(
        both.direct, [whole[i : i + 7] for i in range(0, len(whole), 7)], 1
    )
    assert len(body["hits"]) == 2
    assert b"x-request-id: mine" in head.lower()


def test_the_connection_closes_when_the_client_asks_for_it(both: Both) -> None:
    ((head, _),) = answers_of(both.direct, [request_bytes(1, "connection: close")], 1)
    assert b"connection: close" in head.lower()


def test_keys_are_asked_for(open_api: OpenApi) -> None:
    api = open_api(auth={"admin_keys": ["secret-secret-secret"]})
    api.client.headers["authorization"] = "Bearer secret-secret-secret"
    api.fill(5)
    assert api.search(vector=VECTOR).status_code == 200
    del api.client.headers["authorization"]
    assert api.search(vector=VECTOR).status_code == 401


def test_figures_count_what_was_answered_directly(tmp_path: Path) -> None:
    with running_api(tmp_path) as api:
        api.fill(5)
        for _ in range(3):
            api.search(vector=VECTOR)
        api.search(vector=[1.0])
        text = api.client.get("/metrics").text
    assert 'vecmirror_searches_total{index="items",outcome="ok"} 3.0' in text
    assert 'vecmirror_searches_total{index="items",outcome="wrong-dimension"} 1.0' in text
    assert 'vecmirror_requests_total{method="POST",status="422"} 1.0' in text
