"""The life of an index over HTTP, its feed, its verification, and what health says about it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.metrics import SENTENCES
from tests.api.conftest import DIM, Api, OpenApi, assert_problem, running_api
from tests.fix_feed import COPY_LSN, ITEMS, ItemFeed


def test_an_index_is_made_described_listed_and_dropped(api: Api) -> None:
    made = api.create().json()
    assert made["name"] == "items"
    assert made["spec"]["table"] == {**ITEMS.to_json()} | {
        "key": [{"name": "id", "type": "int8"}],
        "columns": made["spec"]["table"]["columns"],
    }
    described = api.client.get("/v1/indexes/items").json()
    assert (described["phase"], described["epoch"], described["system_id"]) == ("new", 0, None)
    assert described["durable_lsn"] == "0/0"
    (listed,) = api.client.get("/v1/indexes").json()["indexes"]
    assert listed["name"] == "items"
    dropped = api.client.delete("/v1/indexes/items")
    assert (dropped.status_code, dropped.content) == (204, b"")
    assert api.client.get("/v1/indexes").json() == {"indexes": []}


def test_a_batch_is_acknowledged_once_and_applied_once(api: Api) -> None:
    feed = api.fill(5)
    change = feed.upsert([990], np.ones((1, DIM), np.float32))
    first, second = api.send(change), api.send(change)
    assert first.json() == second.json()
    assert first.json() == {"durable_lsn": "0/1100", "applied_lsn": "0/1100", "epoch": 1}
    hits = api.search(vector=[1.0] * DIM, k=100).json()["hits"]
    assert [hit["key"] for hit in hits].count(990) == 1


def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    with running_api(tmp_path) as api:
        feed = api.fill(30)
        before = api.search(vector=feed.vectors[0].tolist(), k=30).json()
        assert api.client.post("/v1/indexes/items/snapshot").json() == {"lsn": "0/1000"}
        assert api.send(feed.delete([0])).status_code == 200
    with running_api(tmp_path) as api:
        after = api.search(vector=feed.vectors[0].tolist(), k=30).json()
    assert after["hits"] == before["hits"][1:]
    assert after["applied_lsn"] == "0/1100"
    assert after["lag_ms"] is None  # nobody has said anything since the start


def test_training_starts_in_the_background_and_answers_stay_right(open_api: OpenApi) -> None:
    api = open_api(index={"train_from_rows": 100_000, "metric": "l2"})
    feed = api.fill(600)
    answer = api.client.post("/v1/indexes/items/train")
    assert (answer.status_code, answer.json()) == (202, {"started": True})
    deadline = time.monotonic() + 60
    while not api.client.get("/v1/indexes/items").json()["trained"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for row in (0, 300, 599):
        hits = api.search(vector=feed.vectors[row].tolist(), k=1, exact=True).json()["hits"]
        assert hits[0]["key"] == feed.ids[row]


def test_a_pin_shows_one_position_while_changes_go_on(api: Api) -> None:
    feed = api.fill(5)
    opened = api.client.post("/v1/indexes/items/pins")
    assert opened.status_code == 201
    pin = f"/v1/indexes/items/pins/{opened.json()['id']}"
    assert_problem(api.client.get(pin), 409, "pin-conflict")
    inside, outside = feed.upsert([990], feed.vectors[:1]), feed.upsert([991], feed.vectors[:1])
    assert api.send(inside).json()["applied_lsn"] == "0/1000"  # journaled, not shown
    assert api.send(outside).status_code == 200
    fixed = api.client.put(pin, json={"lsn": "0/1100"})
    assert fixed.json() == {"id": opened.json()["id"], "applied_lsn": "0/1100"}
    rows = pa.ipc.open_stream(api.client.get(pin).content).read_all()
    assert rows.schema.names == ["key:id", "hash"]
    assert set(rows["key:id"].to_pylist()) == {*feed.ids.tolist(), 990}
    keys = {hit["key"] for hit in api.search(like=0, k=100).json()["hits"]}
    assert {990, 991} <= keys
    assert api.client.delete(pin).status_code == 204
    assert_problem(api.client.get(pin), 404, "unknown-pin")


def test_ready_says_why_not(open_api: OpenApi) -> None:
    api = open_api(ready={"max_lag_bytes": 1000, "max_silence_s": 1})
    assert api.client.get("/readyz").json() == {"status": "ok", "reasons": []}
    api.create(slot="vecmirror_items")
    assert "waits for its first copy" in _reason(api)
    feed = ItemFeed(3)
    begin, rows, end = feed.copy()
    api.send(begin)
    assert "being copied" in _reason(api)
    api.send(rows)
    api.send(end)
    assert api.client.get("/readyz").status_code == 200
    api.send(feed.heartbeat(behind_bytes=5000))
    assert _reason(api) == "items: 5000 bytes behind the source"
    api.send(feed.heartbeat())
    assert api.client.get("/readyz").status_code == 200
    time.sleep(1.1)
    assert "the sidecar has been silent for 1 s" in _reason(api)


@pytest.mark.parametrize("slot", [None, "vecmirror_items"])
def test_only_an_index_with_a_slot_waits_for_a_sidecar(tmp_path: Path, slot: str | None) -> None:
    with running_api(tmp_path) as api:
        api.create(**({"slot": slot} if slot else {}))
        for body in ItemFeed(3).copy():
            api.send(body)
    with running_api(tmp_path) as api:
        if slot is None:
            assert api.client.get("/readyz").status_code == 200
        else:
            assert "has not been heard" in _reason(api)


def test_lag_is_known_and_grows_only_while_behind(api: Api) -> None:
    feed = api.fill(3)
    api.send(feed.heartbeat(behind_bytes=10))
    lags = [api.search(like=0).json()["lag_ms"] for _ in range(2)]
    assert 0 < lags[0] < lags[1]
    api.send(feed.heartbeat())
    assert api.search(like=0).json()["lag_ms"] == 0


def test_an_index_whose_files_are_damaged_says_so(tmp_path: Path) -> None:
    with running_api(tmp_path) as api:
        api.fill(3)
        api.fill(3, name="healthy")
    for record in (tmp_path / "indexes" / "items" / "journal").iterdir():
        content = bytearray(record.read_bytes())
        content[len(content) // 3] ^= 0xFF
        record.write_bytes(content)
    with running_api(tmp_path) as api:
        assert_problem(api.search(like=0), 503, "index-failed")
        reasons = api.client.get("/readyz").json()["reasons"]
        assert any(reason.startswith("items: failed: ") for reason in reasons)
        described = api.client.get("/v1/indexes/items").json()
        assert described["phase"] == "failed"
        assert api.search("healthy", like=0).status_code == 200
        assert 'vecmirror_index_phase{index="items",phase="failed"} 1.0' in _figures(api)
        assert api.client.delete("/v1/indexes/items").status_code == 204


def test_every_figure_has_its_sentence_and_a_well_formed_name(api: Api) -> None:
    feed = api.fill(7)
    api.send(feed.delete([0]))
    api.search(like=10)
    families = {family.name: family for family in text_string_to_metric_families(_figures(api))}
    assert set(SENTENCES) <= set(families)
    for name, family in families.items():
        assert re.fullmatch(r"vecmirror_[a-z_]+[a-z]", name)
        assert family.documentation.endswith(".")
    rows = {
        sample.labels["state"]: sample.value for sample in families["vecmirror_index_rows"].samples
    }
    assert rows == {"live": 6, "dead": 1, "encoded": 0, "dead_in_lists": 0}
    lsns = families["vecmirror_replication_lsn_bytes"].samples
    assert {sample.labels["position"]: sample.value for sample in lsns} == dict.fromkeys(
        ("applied", "durable", "source"), COPY_LSN + 0x100
    )


def test_drift_and_dead_rows_in_lists_are_shown_once_there_is_a_codec(api: Api) -> None:
    feed = api.fill(40)
    assert "vecmirror_index_drift_ratio{" not in _figures(api)
    assert api.client.post("/v1/indexes/items/train").json() == {"started": True}
    while not api.client.get("/v1/indexes/items").json()["trained"]:
        time.sleep(0.01)
    api.send(feed.delete([0, 10]))
    figures = _figures(api)
    for figure in ("error", "imbalance"):
        assert f'vecmirror_index_drift_ratio{{figure="{figure}",index="items"}} 1.0' in figures
    assert 'vecmirror_index_rows{index="items",state="dead_in_lists"} 2.0' in figures
    description = api.client.get("/v1/indexes/items").json()
    assert (description["dead_rows"], description["dead_rows_in_lists"]) == (2, 2)
    assert description["drift"]["error_ratio"] == 1.0


@pytest.mark.parametrize("path", ["/livez", "/healthz"])
def test_the_process_is_alive(filled: Api, path: str) -> None:
    answer = filled.client.get(path)
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


def test_the_documentation_needs_nothing_from_elsewhere(filled: Api) -> None:
    page = filled.client.get("/docs").text
    assert "openapi.json" in page
    assert not re.search(r"""(src|href)\s*=\s*["'](https?:)?//""", page)


def _reason(api: Api) -> str:
    answer = api.client.get("/readyz")
    assert answer.status_code == 503
    (reason,) = answer.json()["reasons"]
    return str(reason)


def _figures(api: Api) -> str:
    return api.client.get("/metrics").text
