"""Reading one's own writes: min_lsn waits, gives up in time, and strong asks the source."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pgsync.lsn import format_lsn, parse_lsn
from server.source import SourceClock, SourceUnreachable
from tests.api.conftest import Api, OpenApi, assert_problem
from tests.fix_feed import ItemFeed
from tests.fix_postgres import Database


def _search(api: Api, feed: ItemFeed, **options: Any) -> Any:
    return api.search(vector=feed.vectors[0].tolist(), k=100, **options)


def test_a_search_waits_for_the_commit_it_must_not_miss(api: Api) -> None:
    feed = api.fill(5)
    change = feed.upsert([990], feed.vectors[:1])
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(_search, api, feed, min_lsn=format_lsn(feed.lsn), timeout_ms=20_000)
        with pytest.raises(TimeoutError):
            answer.result(timeout=0.2)
        assert api.send(change).status_code == 200
        found = answer.result(timeout=20).json()
    assert 990 in {hit["key"] for hit in found["hits"]}
    assert parse_lsn(found["applied_lsn"]) >= feed.lsn


def test_a_position_that_does_not_come_in_time_is_a_stale_index(api: Api) -> None:
    feed = api.fill(5)
    answer = _search(api, feed, min_lsn="0/2000", timeout_ms=50)
    problem = assert_problem(answer, 409, "stale-index")
    assert problem["applied_lsn"] == "0/1000"
    assert problem["wanted_lsn"] == "0/2000"
    assert problem["behind_bytes"] == 0x1000
    assert problem["retry"] == "later"


def test_more_waiting_searches_than_the_setting_allows_are_refused(open_api: OpenApi) -> None:
    api = open_api(server={"max_waiting_searches": 1})
    feed = api.fill(5)
    with ThreadPoolExecutor() as pool:
        waits = [
            pool.submit(_search, api, feed, min_lsn="0/2000", timeout_ms=1000) for _ in range(4)
        ]
        statuses = sorted(wait.result().status_code for wait in waits)
    assert statuses == [409, 429, 429, 429]
    refused = next(wait.result() for wait in waits if wait.result().status_code == 429)
    assert_problem(refused, 429, "overloaded")
    assert refused.headers["retry-after"] == "1"


def test_strong_misses_nothing_the_source_has_flushed(
    open_api: OpenApi, database18: Database
) -> None:
    api = open_api(source={"dsn": database18.dsn})
    feed = api.fill(5)
    stale = _search(api, feed, consistency="strong", timeout_ms=500)
    problem = assert_problem(stale, 409, "stale-index")
    ((flushed,),) = database18.execute("SELECT pg_current_wal_flush_lsn()::text")
    assert parse_lsn(problem["wanted_lsn"]) <= parse_lsn(str(flushed))
    feed.lsn = parse_lsn(str(flushed)) + (1 << 24)  # ahead of what the source writes meanwhile
    assert api.send(feed.heartbeat()).status_code == 200
    assert _search(api, feed, consistency="strong").status_code == 200


def test_a_source_that_is_not_there_is_a_problem(open_api: OpenApi) -> None:
    api = open_api(source={"dsn": "host=/nonexistent dbname=secretname"})
    feed = api.fill(5)
    answer = _search(api, feed, consistency="strong")
    problem = assert_problem(answer, 503, "source-unreachable")
    assert "secretname" not in str(problem)


def test_the_kept_connection_is_replaced_when_it_broke(database18: Database) -> None:
    clock = SourceClock(database18.dsn)
    before = clock.flush_lsn()
    assert before > 0
    database18.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE application_name = 'vecmirror-server'"
    )
    assert clock.flush_lsn() >= before
    clock.close()


def test_an_unreachable_source_keeps_its_cause() -> None:
    clock = SourceClock("host=/nonexistent")
    with pytest.raises(SourceUnreachable) as caught:
        clock.flush_lsn()
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
