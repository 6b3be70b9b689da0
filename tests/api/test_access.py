"""Who may call what over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.conftest import Api, assert_problem, running_api
from tests.fix_feed import ITEMS

OPEN = [("GET", path) for path in ("/livez", "/healthz", "/readyz", "/docs", "/openapi.json")]
READ = [
    ("GET", "/v1/indexes"),
    ("GET", "/v1/indexes/items"),
    ("POST", "/v1/indexes/items/search"),
    ("GET", "/metrics"),
]
ADMIN = [
    ("POST", "/v1/indexes"),
    ("DELETE", "/v1/indexes/items"),
    ("POST", "/v1/indexes/items/changes"),
    ("POST", "/v1/indexes/items/train"),
    ("POST", "/v1/indexes/items/snapshot"),
    ("POST", "/v1/indexes/items/pins"),
    ("PUT", "/v1/indexes/items/pins/x"),
    ("GET", "/v1/indexes/items/pins/x"),
    ("DELETE", "/v1/indexes/items/pins/x"),
]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Return an application with one read key, one admin key and no index."""
    keys = {"read_keys": "reader", "admin_keys": "boss"}
    with running_api(tmp_path_factory.mktemp("guarded"), auth=keys) as api:
        yield api


def _status(api: Api, method: str, path: str, **headers: str) -> int:
    return api.client.request(method, path, headers=headers).status_code


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_health_and_documentation_need_no_key(guarded: Api, method: str, path: str) -> None:
    assert _status(guarded, method, path) == 200


@pytest.mark.parametrize(("method", "path"), READ + ADMIN)
def test_without_a_known_key_every_other_call_is_refused(
    guarded: Api, method: str, path: str
) -> None:
    for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Basic cmVhZGVyOg=="}):
        answer = guarded.client.request(method, path, headers=headers)
        assert "X-API-Key" in assert_problem(answer, 401, "unauthorized")["detail"]
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), ADMIN)
def test_a_read_key_may_not_change_anything(guarded: Api, method: str, path: str) -> None:
    answer = guarded.client.request(method, path, headers={"authorization": "Bearer reader"})
    assert "admin key" in assert_problem(answer, 403, "forbidden")["detail"]


@pytest.mark.parametrize(("method", "path"), READ)
def test_a_read_key_may_search_and_look(guarded: Api, method: str, path: str) -> None:
    assert _status(guarded, method, path, authorization="Bearer reader") in {200, 404}
    assert _status(guarded, method, path, **{"x-api-key": "reader"}) in {200, 404}


@pytest.mark.parametrize(("method", "path"), READ + ADMIN)
def test_an_admin_key_may_do_everything(guarded: Api, method: str, path: str) -> None:
    assert _status(guarded, method, path, authorization="bearer boss") not in {401, 403}


def test_an_admin_can_make_an_index(guarded: Api) -> None:
    answer = guarded.client.post(
        "/v1/indexes",
        json={"name": "made", "table": ITEMS.to_json()},
        headers={"x-api-key": "boss"},
    )
    assert answer.status_code == 201
    assert answer.headers["location"] == "/v1/indexes/made"
    assert answer.json()["metric"] == "cosine"  # the settings' default
