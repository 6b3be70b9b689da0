"""The functions over dblink: one round trip, one kept connection, a server that restarts."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest

from tests.fix_sql import SqlClient, query_vector

Q = query_vector(3)
TYPED = "SELECT id FROM vecmirror.items_search(%s, 10)"
ANY = "SELECT key FROM vecmirror.search('items', %s, 10, 'price < 20')"
EXACT = "SELECT id FROM items WHERE {} ORDER BY embedding <-> %s::vector LIMIT {}"


@pytest.fixture
def db(sql_client: SqlClient) -> Iterator[psycopg.Connection]:
    """Return a connection to the client database."""
    with sql_client.connect() as connection:
        yield connection


def column(db: psycopg.Connection, query: str, *parameters: object) -> list[object]:
    return [row[0] for row in db.execute(query.encode(), parameters).fetchall()]


def test_the_typed_function_gives_typed_keys_in_order(db: psycopg.Connection) -> None:
    rows = db.execute("SELECT * FROM vecmirror.items_search(%s)", [Q]).fetchall()
    assert [row[0] for row in rows] == column(db, EXACT.format("true", 10), Q)
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)


def test_search_takes_any_index_and_gives_keys_as_text(db: psycopg.Connection) -> None:
    expected = column(db, EXACT.format("price < 20", 10), Q)
    assert column(db, ANY, Q) == [str(key) for key in expected]


def test_results_join_with_rows(db: psycopg.Connection) -> None:
    titles = column(
        db,
        "SELECT i.title FROM vecmirror.items_search(%s, 5, 'tenant = 2') s"
        " JOIN items i USING (id) ORDER BY s.distance",
        Q,
    )
    expected = column(db, EXACT.format("tenant = 2", 5), Q)
    assert titles == [f"item {key}" for key in expected]


def test_every_option_can_be_named(db: psycopg.Connection) -> None:
    found = column(
        db,
        "SELECT id FROM vecmirror.items_search(query => %s, k => 3, filter => 'category = ''hat''',"
        " min_lsn => pg_current_wal_flush_lsn(), consistency => 'session', recall_target => 0.9)",
        Q,
    )
    assert found == column(db, EXACT.format("category = 'hat'", 3), Q)
    strong = "SELECT id FROM vecmirror.items_search(%s, 1, consistency => 'strong')"
    assert column(db, strong, Q) == column(db, EXACT.format("true", 1), Q)


def test_a_filter_is_a_value_and_cannot_leave_its_place(db: psycopg.Connection) -> None:
    for nasty in ("category = 'it''s'' OR true --", "'", "true; SELECT 1", "\\"):
        with pytest.raises(psycopg.Error) as refused:
            column(db, "SELECT id FROM vecmirror.items_search(%s, 10, %s)", Q, nasty)
        assert (refused.value.sqlstate or "")[:2] in ("42", "22", "0A"), refused.value
    quoted = "category = 'a\\b' OR category = 'it''s'"
    assert column(db, "SELECT id FROM vecmirror.items_search(%s, 10, %s)", Q, quoted) == []


def test_errors_keep_code_and_hint(db: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.UndefinedColumn, match="prise"):
        column(db, "SELECT id FROM vecmirror.items_search(%s, 10, 'prise < 2')", Q)
    with pytest.raises(psycopg.errors.NullValueNotAllowed, match="NULL"):
        column(db, "SELECT id FROM vecmirror.items_search(NULL)")
    with pytest.raises(psycopg.errors.UndefinedObject, match="nothing") as refused:
        column(db, "SELECT key FROM vecmirror.search('nothing', %s)", Q)
    assert refused.value.diag.message_hint == "Make it with: vecmirror sql-install nothing"
    assert column(db, TYPED, Q), "a refused search must not break the connection"


def test_one_connection_is_kept_for_a_session(db: psycopg.Connection) -> None:
    for _ in range(3):
        column(db, TYPED, Q)
        column(db, ANY, Q)
    assert column(db, "SELECT unnest(dblink_get_connections())") == ["vecmirror"]


def test_it_works_in_read_only_transactions_and_in_functions(db: psycopg.Connection) -> None:
    expected = column(db, EXACT.format("true", 10), Q)
    with db.transaction():
        db.execute("SET TRANSACTION READ ONLY")
        assert column(db, TYPED, Q) == expected
    db.execute(
        "CREATE FUNCTION pg_temp.near(q vector) RETURNS SETOF bigint LANGUAGE sql AS"
        " 'SELECT id FROM vecmirror.items_search(q, 10)'"
    )
    assert column(db, "SELECT pg_temp.near(%s)", Q) == expected


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_both_ways_survive_a_restart_of_the_server(sql_client: SqlClient, kill: bool) -> None:
    foreign = "SELECT id FROM vecmirror.items_light WHERE query = %s::vector AND k = 10"
    with sql_client.connect() as db:
        expected = column(db, TYPED, Q)
        assert sorted(column(db, foreign, Q)) == sorted(expected)  # type: ignore[type-var]
        sql_client.service.restart_server(kill=kill)
        assert column(db, TYPED, Q) == expected
        assert column(db, ANY, Q)
        assert sorted(column(db, foreign, Q)) == sorted(expected)  # type: ignore[type-var]
        assert column(db, "SELECT unnest(dblink_get_connections())") == ["vecmirror"]


def test_while_the_server_is_away_the_error_says_so(sql_client: SqlClient) -> None:
    with sql_client.connect() as db:
        expected = column(db, TYPED, Q)
        sql_client.service.server.stop()
        try:
            for _ in range(2):
                with pytest.raises(psycopg.Error) as refused:
                    column(db, TYPED, Q)
                assert (refused.value.sqlstate or "").startswith("08")
        finally:
            sql_client.service.restart_server(kill=True)
        assert column(db, TYPED, Q) == expected


def test_keys_of_several_columns_come_back_as_json(sql_client: SqlClient) -> None:
    with sql_client.connect() as db:
        db.execute(
            "CREATE TABLE pairs (shop text, n int, embedding vector(2), PRIMARY KEY (shop, n))"
        )
        db.execute(
            "INSERT INTO pairs VALUES ('a', 1, '[0,1]'), ('b', 2, '[1,0]'), ('b', 3, '[9,9]')"
        )
        sql_client.service.attach("public", "pairs", [], "pairs")
        sql_client.install("pairs")
        keys = column(db, "SELECT key FROM vecmirror.search('pairs', '[1,0]', 2)")
        assert [json.loads(str(key)) for key in keys] == [["b", 2], ["a", 1]]
        rows = db.execute(
            "SELECT shop, n, distance FROM vecmirror.pairs_rows WHERE query = '[1,0]'"
            " ORDER BY distance LIMIT 1"
        ).fetchall()
        assert rows == [("b", 2, 0.0)]
