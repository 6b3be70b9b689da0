"""Statements as postgres_fdw 14 to 18, dblink, psql and drivers send them, and their answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from server.sql.types import INT4, INT8, VECTOR, from_text
from tests.fix_sql_session import Desk, Talk, desk, literal

QUERY = np.array([0.1, -0.2, 0.3], np.float32)
Q = literal(QUERY)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    path: Path = tmp_path_factory.mktemp("captured")
    with desk(path) as made:
        yield made


@pytest.fixture
def talk(items: Desk) -> Talk:
    return items.talk()


def nearest(items: Desk, allowed: list[bool] | None = None) -> list[int]:
    """Return ids by rising distance to QUERY."""
    distances = np.linalg.norm(items.vectors.astype(float) - QUERY.astype(float), axis=1)
    order = np.argsort(distances, kind="stable").tolist()
    return [place for place in order if allowed is None or allowed[place]]


@pytest.mark.parametrize(
    "text",
    [
        "SET search_path = pg_catalog",
        "SET timezone = 'GMT'",
        "SET datestyle = ISO",
        "SET intervalstyle = postgres",
        "SET extra_float_digits = 3",
        "SET application_name = 'x'",
        "SET client_encoding TO 'UTF8'",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY",
        "set client_min_messages to warning",
        "SET statement_timeout = '2min'",
        "SET hnsw.ef_search = 200",
        "SET LOCAL TIME ZONE 'UTC'",
        "SET NAMES 'UTF8'",
    ],
)
def test_settings_of_clients_are_taken(talk: Talk, text: str) -> None:
    assert talk(text).tag == "SET"


#: (text of the condition as sent, parameters) with the literal styles of all majors.
LIGHT_FORMS = [
    ("((query OPERATOR(public.=) $1::public.vector)) AND ((k = $2::integer))", (QUERY, 5)),
    ("(($1::public.vector OPERATOR(public.=) query)) AND (($2::integer = k))", (QUERY, 5)),
    ("((query = $1::text)) AND ((k = $2::integer))", (Q.strip("'"), 5)),
    (f"((query OPERATOR(public.=) {Q}::public.vector)) AND ((k = 5))", ()),
    (f"((query OPERATOR(extensions.=) {Q}::extensions.vector(3))) AND ((k = 5))", ()),
    (f"((k = 5)) AND ((query OPERATOR(public.=) {Q}))", ()),
]


@pytest.mark.parametrize(("where", "parameters"), LIGHT_FORMS)
def test_a_light_scan_of_postgres_fdw(
    items: Desk, talk: Talk, where: str, parameters: tuple[object, ...]
) -> None:
    assert talk("START TRANSACTION ISOLATION LEVEL REPEATABLE READ").tag == "START TRANSACTION"
    assert talk.status == "T"
    declared = talk(
        f"DECLARE c1 CURSOR FOR\nSELECT id, query, k, distance FROM public.items WHERE {where}",
        *parameters,
    )
    assert (declared.tag, declared.columns) == ("DECLARE CURSOR", None)
    fetched = talk("FETCH 100 FROM c1")
    assert fetched.tag == "FETCH"
    assert fetched.names == ["id", "query", "k", "distance"]
    assert fetched.column(0) == nearest(items)[:5]
    # What was asked comes back, so that the other side's own check of it holds.
    assert all(np.array_equal(vector, QUERY) for vector in fetched.column(1))
    assert fetched.column(2) == [5] * 5
    assert fetched.column(3) == sorted(fetched.column(3))
    assert talk("CLOSE c1").tag == "CLOSE CURSOR"
    assert talk("COMMIT TRANSACTION").tag == "COMMIT"
    assert talk.status == "I"


#: Forms of ORDER BY embedding <-> query LIMIT, with conditions, as each major writes them.
PGVECTOR_FORMS = [
    "SELECT id, embedding FROM public.items WHERE ((tenant = 7)) "
    "ORDER BY (embedding OPERATOR(public.<->) $1::public.vector) ASC NULLS LAST LIMIT 4::bigint",
    "SELECT id, embedding FROM public.items WHERE ((7 = tenant)) "
    "ORDER BY (embedding OPERATOR(public.<->) $1::public.vector(3)) ASC NULLS LAST LIMIT 4",
    "SELECT id, embedding FROM public.items WHERE ((tenant = 7)) "
    "ORDER BY public.l2_distance(embedding, $1::public.vector) ASC NULLS LAST LIMIT 4::bigint "
    "OFFSET 0::bigint",
]


@pytest.mark.parametrize("text", PGVECTOR_FORMS)
def test_pgvector_syntax_through_postgres_fdw(items: Desk, talk: Talk, text: str) -> None:
    talk("START TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    talk(f"DECLARE c1 CURSOR FOR\n{text}", QUERY)
    fetched = talk("FETCH 200 FROM c1")
    allowed = [row["tenant"] == 7 for row in items.rows]
    assert fetched.column(0) == nearest(items, allowed)[:4]
    for number, vector in fetched.rows or ():
        np.testing.assert_array_equal(vector, items.vectors[number])


def test_a_scan_without_limit_streams_until_nobody_asks(items: Desk, talk: Talk) -> None:
    talk("START TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    talk(
        "DECLARE c1 CURSOR FOR SELECT id, distance FROM public.items WHERE "
        "((query OPERATOR(public.=) $1::public.vector)) ORDER BY distance ASC NULLS LAST",
        QUERY,
    )
    given = [row[0] for _ in range(5) for row in talk("FETCH 20 FROM c1").rows or ()]
    assert given == nearest(items)[:100]
    assert talk("MOVE BACKWARD ALL IN c1").tag == "MOVE 99"
    assert talk("FETCH 3 FROM c1").column(0) == nearest(items)[:3]


def test_subtransactions_of_postgres_fdw(talk: Talk) -> None:
    talk("START TRANSACTION ISOLATION LEVEL SERIALIZABLE")
    talk("SAVEPOINT s2")
    talk("SELECT count(*) FROM items")
    talk("RELEASE SAVEPOINT s2")
    talk("SAVEPOINT s2")
    assert talk.error("SELECT nonsense FROM items").sqlstate == "42703"
    assert talk.status == "E"
    said = talk.script("ROLLBACK TO SAVEPOINT s2; RELEASE SAVEPOINT s2")
    assert [one.tag for one in said] == ["ROLLBACK", "RELEASE"]
    assert talk.status == "T"
    assert talk("ABORT TRANSACTION").tag == "ROLLBACK"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # a search with its limit is the cheapest
        (f"SELECT id, distance FROM public.items WHERE ((query OPERATOR(public.=) {Q})) "
         "ORDER BY distance ASC NULLS LAST LIMIT 10::bigint", (1.0, 10)),
        (f"SELECT id, embedding FROM public.items ORDER BY (embedding OPERATOR(public.<->) "
         f"{Q}::public.vector) ASC NULLS LAST LIMIT 10::bigint", (1.0, 10)),
        # one without an end costs more at its start
        (f"SELECT id, distance FROM public.items WHERE ((query OPERATOR(public.=) {Q}))",
         (10.0, 300)),
        (f"SELECT id, distance FROM public.items WHERE ((query OPERATOR(public.=) {Q})) AND "
         "((k = 7))", (10.0, 7)),
        # stand-ins for parameters, as LATERAL joins have them
        ("SELECT id, distance FROM public.items WHERE ((query OPERATOR(public.=) "
         "((SELECT null::public.vector(3))::public.vector(3)))) ORDER BY distance ASC NULLS LAST "
         "LIMIT 5::bigint", (1.0, 5)),
        ("SELECT id, distance FROM public.items WHERE ((query OPERATOR(public.=) "
         "((SELECT null::public.vector)::public.vector))) AND ((k = "
         "((SELECT null::integer)::integer)))", (10.0, 10)),
        # reading without a search is dear, by key too
        ("SELECT id, tenant FROM public.items WHERE ((id = ((SELECT null::bigint)::bigint)))",
         (1e6, 1)),
        ("SELECT id FROM public.items ORDER BY id ASC NULLS LAST", (1e6, 300)),
        (f"SELECT id, distance FROM public.items WHERE ((query OPERATOR(public.=) {Q})) "
         "ORDER BY id ASC NULLS LAST", (1e6, 300)),
        # joins, aggregates and what nobody can read is never to be sent
        ("SELECT r1.id, r2.id FROM (public.items r1 INNER JOIN public.other r2 ON "
         "(((r1.id = r2.id))))", (1e12, 1)),
        ("SELECT NULL FROM (public.a r1 INNER JOIN public.b r2 ON (((r1.id = r2.id))))",
         (1e12, 1)),
        ("SELECT count(*) FROM public.items", (1e12, 1)),
        ("SELECT tenant, sum(price) FROM public.items GROUP BY 1", (1e12, 1)),
        ("SELECT id FROM public.items WHERE (((name)::pg_catalog.xml IS DOCUMENT))", (1e12, 1)),
        (f"SELECT id FROM public.items WHERE ((md5(name) = 'x')) AND ((query = {Q}))", (1e12, 1)),
        ("SELECT (((", (1e12, 1)),
    ],
)  # fmt: skip
def test_explain_steers_the_planner(talk: Talk, text: str, expected: tuple[float, int]) -> None:
    said = talk(f"EXPLAIN {text}")
    assert said.tag == "EXPLAIN"
    line = said.column()[0]
    start, rest = line.partition("(cost=")[2].split("..")
    total, rows, width = rest.rstrip(")").split()
    assert (float(start), int(rows.removeprefix("rows="))) == expected
    assert float(total) >= float(start)
    assert int(width.removeprefix("width=")) > 0


def test_explain_counts_exactly_what_a_filter_keeps(items: Desk, talk: Talk) -> None:
    kept = sum(row["tenant"] is not None and row["tenant"] < 3 for row in items.rows)
    line = talk.rows(f"EXPLAIN SELECT id, distance FROM items WHERE query = {Q} AND tenant < 3")[0]
    assert f"rows={kept} " in line


def test_explain_pins_no_state(items: Desk, talk: Talk) -> None:
    talk("START TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    talk(f"EXPLAIN SELECT id, distance FROM items WHERE query = {Q} AND min_lsn = '0/64'")
    items.mirror.snapshot()
    applied = items.mirror.state.applied_lsn
    items.change(applied + 10, [])
    found = talk.rows(
        f"SELECT id FROM items WHERE query = {Q} AND k = 1 AND min_lsn = $1::pg_lsn", applied + 10
    )
    assert found == nearest(items)[:1]


@pytest.mark.parametrize(
    ("text", "columns", "rows"),
    [
        ("SELECT pg_catalog.pg_relation_size('public.items'::pg_catalog.regclass) / 8192",
         ["?column?"], [(3,)]),
        ("SELECT reltuples, relkind FROM pg_catalog.pg_class WHERE oid = "
         "'vecmirror.items'::pg_catalog.regclass", ["reltuples", "relkind"], [(300.0, "f")]),
        ("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = 'vecmirror'", ["?column?"],
         [(1,)]),
        ("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = 'nothing'", ["?column?"], []),
        ("SELECT 1", ["?column?"], [(1,)]),
        ("select current_schema()", ["current_schema"], [("vecmirror",)]),
        ("SELECT pg_catalog.set_config('search_path', '', false)", ["set_config"], [("",)]),
        ("SELECT current_setting('server_version_num')::integer", ["current_setting"],
         [(180000,)]),
        ("SHOW transaction isolation level", ["transaction_isolation"], [("repeatable read",)]),
        ("SHOW standard_conforming_strings", ["standard_conforming_strings"], [("on",)]),
        ("SELECT typname AS name, oid, typarray AS array_oid, oid::regtype::text AS regtype, "
         "typdelim AS delimiter FROM pg_type t WHERE t.oid = to_regtype('vector') ORDER BY t.oid",
         ["name", "oid", "array_oid", "regtype", "delimiter"],
         [("vector", VECTOR, VECTOR + 1, "vector", ",")]),
        ("SELECT NULL", ["?column?"], [(None,)]),
        ("SELECT 1 + 1 AS two, 'x'::text, true", ["two", "text", "bool"], [(2, "x", True)]),
    ],
)  # fmt: skip
def test_questions_of_clients(
    talk: Talk, text: str, columns: list[str], rows: list[tuple[object, ...]]
) -> None:
    said = talk(text)
    assert (said.names, said.rows) == (columns, rows)


IMPORT = """SELECT relname,   attname,   format_type(atttypid, atttypmod),   attnotnull,
{expressions}
  collname,   collnsp.nspname FROM pg_class c   JOIN pg_namespace n ON     relnamespace = n.oid
  LEFT JOIN pg_attribute a ON     attrelid = c.oid AND attnum > 0       AND NOT attisdropped
  LEFT JOIN pg_attrdef ad ON     adrelid = c.oid AND adnum = attnum
  LEFT JOIN pg_collation coll ON   coll.oid = attcollation
  LEFT JOIN pg_namespace collnsp ON     collnsp.oid = collnamespace
WHERE c.relkind IN ('r','v','f','m','p')   AND n.nspname = 'vecmirror'{limit}
ORDER BY c.relname, a.attnum"""
OLD = "  pg_get_expr(adbin, adrelid),   attgenerated,"
NEW = "  attgenerated,   pg_get_expr(adbin, adrelid),"


@pytest.mark.parametrize("expressions", [OLD, NEW], ids=["15 to 18", "14"])
def test_import_foreign_schema_is_answered_by_its_select_list(talk: Talk, expressions: str) -> None:
    said = talk(IMPORT.format(expressions=expressions, limit=""))
    expected = ["relname", "attname", "format_type", "attnotnull"]
    expected += (
        ["pg_get_expr", "attgenerated"]
        if expressions == OLD
        else [
            "attgenerated",
            "pg_get_expr",
        ]
    )
    assert said.names == [*expected, "collname", "nspname"]
    rows = [dict(zip(said.names, row, strict=True)) for row in said.rows or ()]
    shown = {row["attname"]: row["format_type"] for row in rows}
    assert list(shown.items())[:3] == [("id", "bigint"), ("tenant", "integer"), ("name", "text")]
    assert shown["embedding"] == shown["query"] == "vector(3)"
    assert shown["min_lsn"] == "pg_lsn"
    assert {row["attgenerated"] for row in rows} == {""}
    assert {row["attname"]: row["collname"] for row in rows}["name"] == "C"
    assert [row["attname"] for row in rows if row["attnotnull"]] == ["id"]


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        (" AND c.relname IN ('items', 'other')", True),
        (" AND c.relname IN ('other')", False),
        (" AND c.relname NOT IN ('items')", False),
        (" AND c.relname NOT IN ('other')", True),
    ],
)
def test_import_foreign_schema_may_be_limited(talk: Talk, limit: str, found: bool) -> None:
    assert bool(talk(IMPORT.format(expressions=OLD, limit=limit)).rows) == found


ALL_COLUMNS = (
    "id, tenant, name, price, tags, made, owner, sold, embedding, query, k, distance, filter, "
    "recall_target, min_lsn, consistency"
)


@pytest.mark.parametrize(
    ("asked_first", "clause", "expected"),
    [
        ("SELECT pg_catalog.pg_relation_size('public.items'::pg_catalog.regclass) / 8192", "", 300),
        (
            "SELECT reltuples, relkind FROM pg_catalog.pg_class WHERE oid = "
            "'public.items'::pg_catalog.regclass",
            " WHERE pg_catalog.random() < 0.500000",
            None,
        ),
        (
            "SELECT reltuples, relkind FROM pg_catalog.pg_class WHERE oid = "
            "'public.items'::pg_catalog.regclass",
            " TABLESAMPLE BERNOULLI(50.000000)",
            None,
        ),
    ],
)
def test_analyze_gets_a_sample(
    talk: Talk, asked_first: str, clause: str, expected: int | None
) -> None:
    talk("START TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    talk(asked_first)
    talk(f"DECLARE c1 CURSOR FOR SELECT {ALL_COLUMNS} FROM public.items{clause}")
    rows = talk("FETCH 1000 FROM c1").rows
    assert rows is not None
    assert len(rows) == expected or (expected is None and 100 < len(rows) < 200)
    assert {row[9:] for row in rows} == {(None,) * 7}


def test_whoever_is_not_analyzing_needs_a_query_vector(talk: Talk) -> None:
    talk("START TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    error = talk.error(f"DECLARE c1 CURSOR FOR SELECT {ALL_COLUMNS} FROM public.items")
    assert "query vector" in error.message
    assert "LATERAL" in (error.hint or "")


def test_dblink_asks_in_one_text(items: Desk, talk: Talk) -> None:
    said = talk(
        f"SELECT key, distance FROM vecmirror.search('items', {Q}::vector, 3, 'tenant < 9')"
    )
    allowed = [row["tenant"] is not None and row["tenant"] < 9 for row in items.rows]
    assert said.column() == nearest(items, allowed)[:3]


def test_asyncpg_asks_for_types_and_cleans_up(talk: Talk) -> None:
    said = talk.script("SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;")
    assert [one.tag for one in said] == ["SELECT", "CLOSE CURSOR ALL", "UNLISTEN", "RESET"]
    kinds = talk(
        "SELECT t.oid, t.typelem AS elemtype, t.typtype AS kind FROM pg_catalog.pg_type AS t "
        "INNER JOIN pg_catalog.pg_namespace AS ns ON (ns.oid = t.typnamespace) "
        "WHERE t.typname = $1 AND ns.nspname = $2",
        "vector",
        "public",
    )
    assert kinds.rows == [(VECTOR, 0, "b")]


def test_parameters_take_the_type_of_what_they_are_compared_with(items: Desk) -> None:
    session = items.talk().session
    text = (
        "SELECT id FROM items WHERE query = $1 AND k = $2 AND tenant = $3 AND price < $4 "
        "AND id = ANY($5) AND name LIKE $6 LIMIT $7"
    )
    prepared = items.runner.run(session.prepare(text, ()))
    float8, int8_array, text_oid = 701, 1016, 25
    expected = (VECTOR, INT4, INT4, float8, int8_array, text_oid, INT8)
    assert prepared.parameter_oids == expected
    assert from_text(VECTOR, "[1,2,3]").dtype == np.float32
