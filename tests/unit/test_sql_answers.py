"""Answers over random rows are those of a loop over all of them, in every form of a question."""

from __future__ import annotations

import operator as op
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgsync.changes import Op
from pgsync.table import ColumnSpec
from server.settings import Settings
from server.spec import Metric
from tests.change_batches import Change
from tests.fix_sql_session import Desk, Talk, desk, literal

N_ROWS = 300
QUERY = np.array([0.1, -0.2, 0.3], np.float32)
Q = literal(QUERY)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk(tmp_path_factory.mktemp("answers"), N_ROWS) as made:
        yield made


@pytest.fixture(scope="module")
def talk(items: Desk) -> Talk:
    return items.talk()


Row = dict[str, Any]
Condition = tuple[str, Callable[[Row], bool]]


def _is(row: Row, name: str, test: Callable[[Any], bool]) -> bool:
    """Whether a comparison is TRUE: NULL is not."""
    return row[name] is not None and test(row[name])


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    """Return a condition in the words of people or of postgres_fdw, and what it means."""
    number = draw(st.integers(-1, 20))
    ids = draw(st.lists(st.integers(-5, N_ROWS + 5), max_size=30))
    listed = ",".join(map(str, ids))
    price = draw(st.integers(0, 200)) / 4
    word = draw(st.sampled_from(["red", "Red", "a%b", "o'neil", ""]))
    quoted = word.replace("'", "''")
    pool: list[Condition] = [
        (f"((tenant = {number}))", lambda r: _is(r, "tenant", lambda v: v == number)),
        (f"(({number} < tenant))", lambda r: _is(r, "tenant", lambda v: number < v)),
        ("(((tenant % 3) = 1))", lambda r: _is(r, "tenant", lambda v: v % 3 == 1)),
        (f"((id = ANY ('{{{listed}}}'::bigint[])))", lambda r: r["id"] in ids),
        (f"id <> ALL ('{{{listed}}}')", lambda r: r["id"] not in ids),
        (
            f"price BETWEEN {price} AND 40",
            lambda r: _is(r, "price", lambda v: price <= v <= 40),
        ),
        ("((price IS NULL))", lambda r: r["price"] is None),
        (f"name = '{quoted}'::text", lambda r: r["name"] == word),
        (
            f"((name OPERATOR(pg_catalog.<>) '{quoted}'))",
            lambda r: _is(r, "name", lambda v: v != word),
        ),
        ("((name ~~ '%e%'::text))", lambda r: _is(r, "name", lambda v: "e" in v)),
        ("((sold IS DISTINCT FROM true))", lambda r: r["sold"] is not True),
        ("((NOT sold))", lambda r: r["sold"] is False),
        (f"'{quoted}' = ANY (tags)", lambda r: _is(r, "tags", lambda v: word in v)),
        ("embedding IS NOT NULL", lambda r: True),
    ]
    return draw(st.sampled_from(pool))


@st.composite
def where_clauses(draw: st.DrawFn) -> Condition:
    """Return up to three conditions joined by AND."""
    parts = draw(st.lists(conditions(), max_size=3))
    return " AND ".join(text for text, _ in parts), lambda row: all(test(row) for _, test in parts)


def brute_force(items: Desk, keeps: Callable[[Row], bool]) -> list[tuple[int, float]]:
    """Return (id, distance) of the rows kept, nearest first."""
    distances = np.linalg.norm(items.vectors.astype(float) - QUERY.astype(float), axis=1)
    kept = [(row["id"], distances[place]) for place, row in enumerate(items.rows) if keeps(row)]
    return sorted(kept, key=lambda hit: (hit[1], hit[0]))


def assert_hits(found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> None:
    """Compare ids, and distances as float32 has them."""
    assert [key for key, _ in found] == [key for key, _ in expected]
    np.testing.assert_allclose(
        [distance for _, distance in found], [distance for _, distance in expected], rtol=1e-5
    )


LIMITS = st.none() | st.integers(0, 40) | st.just(N_ROWS * 2)


@settings(max_examples=150, deadline=None)
@given(where=where_clauses(), limit=LIMITS, offset=st.integers(0, 50), form=st.integers(0, 4))
def test_searches_find_the_nearest_rows_that_match(
    items: Desk,
    talk: Talk,
    where: Condition,
    limit: int | None,
    offset: int,
    form: int,
) -> None:
    text, keeps = where
    more = f" AND {text}" if text else ""
    only = f" WHERE {text}" if text else ""
    end = "" if limit is None else f" LIMIT {limit}::bigint"
    end += f" OFFSET {offset}" if offset else ""
    queries = [
        f"SELECT id, distance FROM items WHERE query = {Q}{more} ORDER BY distance{end}",
        f"SELECT id, embedding <-> {Q} FROM public.items{only} "
        f"ORDER BY (embedding OPERATOR(public.<->) {Q}::public.vector) ASC NULLS LAST{end}",
        f"SELECT v.id, v.distance FROM vecmirror.items v WHERE v.query = {Q}{more}{end}",
        f"SELECT id, embedding <-> {Q} AS d FROM items{only} ORDER BY d, id{end}",
        f"SELECT id, {Q} <-> embedding AS d FROM items{only} ORDER BY 2 ASC, 1 ASC{end}",
    ]
    expected = brute_force(items, keeps)[offset:]
    assert_hits(talk.rows(queries[form]), expected[:limit])


@settings(max_examples=60, deadline=None)
@given(where=where_clauses(), k=st.integers(1, 40), limit=LIMITS)
def test_k_keeps_the_nearest_before_anything_else_is_done(
    items: Desk, talk: Talk, where: Condition, k: int, limit: int | None
) -> None:
    text, keeps = where
    more = f" AND {text}" if text else ""
    end = "" if limit is None else f" LIMIT {limit}"
    expected = brute_force(items, keeps)[:k]
    base = f"FROM items WHERE query = {Q} AND k = {k}{more}"
    assert_hits(talk.rows(f"SELECT id, distance {base}{end}"), expected[:limit])
    by_id = sorted(key for key, _ in expected)
    assert talk.rows(f"SELECT id {base} ORDER BY id{end}") == by_id[:limit]
    assert talk.rows(f"SELECT count(*) {base}") == [len(expected)]


@settings(max_examples=60, deadline=None)
@given(where=where_clauses(), limit=LIMITS, offset=st.integers(0, 20))
def test_without_a_query_rows_are_read_and_counted(
    items: Desk, talk: Talk, where: Condition, limit: int | None, offset: int
) -> None:
    text, keeps = where
    only = f" WHERE {text}" if text else ""
    end = "" if limit is None else f" LIMIT {limit}"
    kept = [row for row in items.rows if keeps(row)]
    last = None if limit is None else offset + limit
    found = talk.rows(f"SELECT id FROM items{only}{end} OFFSET {offset}")
    assert found == [row["id"] for row in kept][offset:last]
    assert talk.rows(f"SELECT count(*) FROM items{only}") == [len(kept)]
    ordered = talk.rows(f"SELECT id, price FROM items{only} ORDER BY price DESC, id{end}")
    key = lambda row: (row["price"] is not None, -(row["price"] or 0), row["id"])  # noqa: E731
    assert ordered == [(row["id"], row["price"]) for row in sorted(kept, key=key)][:limit]


@settings(max_examples=60, deadline=None)
@given(
    where=where_clauses(),
    bound=st.floats(0, 5, width=32),
    operator=st.sampled_from(["<", "<=", ">", ">="]),
    limit=st.none() | st.integers(1, 50),
    form=st.integers(0, 2),
)
def test_ranges_hold_exactly_what_lies_in_them(
    items: Desk,
    talk: Talk,
    where: Condition,
    bound: float,
    operator: str,
    limit: int | None,
    form: int,
) -> None:
    text, keeps = where
    more = f" AND {text}" if text else ""
    compare = {"<": op.lt, "<=": op.le, ">": op.gt, ">=": op.ge}[operator]
    expected = [hit for hit in brute_force(items, keeps) if compare(hit[1], bound)]
    end = "" if limit is None else f" LIMIT {limit}"
    distance = f"(embedding OPERATOR(public.<->) {Q}::public.vector)"
    queries = [
        f"SELECT id, distance FROM items WHERE query = {Q} AND distance {operator} {bound}{more} "
        f"ORDER BY distance{end}",
        f"SELECT id, {distance} FROM items WHERE (({distance} {operator} "
        f"{bound}::double precision)){more} ORDER BY {distance} ASC NULLS LAST{end}",
        f"SELECT id, {distance} FROM items WHERE {distance} {operator} {bound}{more}",
    ]
    found = talk.rows(queries[form])
    if form == 2:
        found.sort(key=lambda hit: (hit[1], hit[0]))
        limit = None
    assert_hits(found, expected[:limit])


@settings(max_examples=40, deadline=None)
@given(batch=st.integers(1, 200), limit=st.integers(0, 200))
def test_rows_are_the_same_however_they_are_fetched(items: Desk, batch: int, limit: int) -> None:
    talk = items.talk(batch)
    found = talk.rows(f"SELECT id, distance FROM items WHERE query = {Q} LIMIT {limit}")
    assert_hits(found, brute_force(items, lambda row: True)[:limit])


def test_every_type_comes_as_its_python_value(items: Desk, talk: Talk) -> None:
    found = talk.rows(
        "SELECT id, tenant, name, price, tags, made, owner, sold, embedding FROM items"
    )
    for row, expected, vector in zip(found, items.rows, items.vectors, strict=True):
        owner = expected["owner"]
        tags = expected["tags"]
        assert row[:8] == (
            expected["id"],
            expected["tenant"],
            expected["name"],
            expected["price"],
            None if tags is None else tuple(tags),
            expected["made"],
            None if owner is None else uuid.UUID(bytes=owner),
            expected["sold"],
        )
        np.testing.assert_array_equal(row[8], vector)


def test_outputs_may_be_expressions(items: Desk, talk: Talk) -> None:
    found = talk.rows(
        f"SELECT id, price * 2 AS twice, upper(name), 1 - distance, coalesce(tenant, -1), 'x', "
        f"owner, tags FROM items WHERE query = {Q} LIMIT 50"
    )
    by_id = {row["id"]: row for row in items.rows}
    distances = dict(brute_force(items, lambda row: True))
    for number, twice, upper, near, tenant, x, *_ in found:
        row = by_id[number]
        assert twice == (None if row["price"] is None else row["price"] * 2)
        assert upper == (None if row["name"] is None else row["name"].upper())
        assert near == pytest.approx(1 - distances[number], abs=1e-6)
        assert tenant == (-1 if row["tenant"] is None else row["tenant"])
        assert x == "x"


def test_two_distances_of_one_row(items: Desk, talk: Talk) -> None:
    other = literal([1, 1, 1])
    found = talk.rows(
        f"SELECT id, distance, embedding <-> {other} FROM items WHERE query = {Q} "
        f"AND embedding <-> {other} < 2 ORDER BY distance LIMIT 20"
    )
    away = np.linalg.norm(items.vectors - np.ones(3, np.float32), axis=1)
    expected = brute_force(items, lambda row: bool(away[row["id"]] < 2))[:20]
    assert_hits([hit[:2] for hit in found], expected)
    np.testing.assert_allclose(
        [hit[2] for hit in found], [away[hit[0]] for hit in found], rtol=1e-5
    )


def test_star_shows_rows_and_the_distance_if_there_is_one(talk: Talk) -> None:
    mirrored = ["id", "tenant", "name", "price", "tags", "made", "owner", "sold", "embedding"]
    assert talk("SELECT * FROM items LIMIT 1").names == mirrored
    assert talk(f"SELECT * FROM items WHERE query = {Q} LIMIT 1").names == [*mirrored, "distance"]
    assert talk(f"SELECT * FROM search('items', {Q}, 1)").names == ["id", "distance"]


def test_the_search_function_takes_everything_by_name(items: Desk, talk: Talk) -> None:
    text = (
        f"SELECT key, distance, tenant FROM vecmirror.search('items', {Q}, k => 4, "
        "filter => 'tenant = 3', recall_target => 1, min_lsn => '0/64', consistency => 'session')"
    )
    expected = brute_force(items, lambda row: row["tenant"] == 3)[:4]
    assert_hits([row[:2] for row in talk.rows(text)], expected)
    assert len(talk.rows(f"SELECT key FROM vecmirror.search('vecmirror.items', {Q})")) == 10
    assert len(talk.rows("SELECT key FROM search($1, $2, $3, $4)".replace("$1", "'items'")
                         .replace("$2", "$1").replace("$3", "$2").replace("$4", "$3"),
                         QUERY, None, None)) == N_ROWS  # fmt: skip


def test_light_columns_come_back_as_they_were_asked(talk: Talk) -> None:
    said = talk(
        f"SELECT query, k, filter, recall_target, min_lsn, consistency FROM items WHERE "
        f"query = {Q} AND k = 2 AND filter = 'tenant > 0' AND recall_target = 0.5 AND "
        "min_lsn = '0/10' AND consistency = 'session'"
    )
    for row in said.rows or ():
        np.testing.assert_array_equal(row[0], QUERY)
        assert row[1:] == (2, "tenant > 0", 0.5, 0x10, "session")
    assert len(said.rows or ()) == 2


@pytest.mark.parametrize("part", ["query", "k", "filter", "recall_target", "min_lsn"])
def test_a_comparison_with_null_keeps_no_row(talk: Talk, part: str) -> None:
    given_parts = {"query": Q, "k": "5"}
    given_parts[part] = "NULL"
    where = " AND ".join(f"{name} = {value}" for name, value in given_parts.items())
    assert talk.rows(f"SELECT id, distance FROM items WHERE {where}") == []


LOST = [
    "SELECT id, distance FROM items",
    "SELECT id, query FROM items",
    "SELECT id, k FROM items WHERE k = 3",
    "SELECT id FROM items WHERE k = 3",
    "SELECT id FROM items WHERE distance < 2",
    "SELECT id FROM items ORDER BY distance LIMIT 3",
    "SELECT id FROM items WHERE recall_target = 0.9",
    "SELECT count(*) FROM items WHERE k = 3",
]


@pytest.mark.parametrize("text", LOST)
def test_a_search_whose_vector_did_not_arrive_is_an_error_with_a_hint(
    talk: Talk, text: str
) -> None:
    error = talk.error(text)
    assert "query vector" in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("text", "sqlstate", "says"),
    [
        (f"SELECT id FROM items ORDER BY embedding <=> {Q} LIMIT 3", "0A000", "use <->"),
        (f"SELECT id FROM items WHERE embedding <#> {Q} < 1", "0A000", "use <->"),
        ("SELECT id FROM items WHERE query = '[1,2]'", "22000", "3 components"),
        ("SELECT id FROM items ORDER BY embedding <-> NULL LIMIT 3", "22004", "NULL"),
        (f"SELECT id FROM items WHERE query = {Q} AND name ~ 'x'", "0A000", "use LIKE"),
        (f"SELECT id FROM items WHERE query = {Q} AND md5(name) = 'x'", "42883", "md5"),
        (f"SELECT id FROM items WHERE query = {Q} OR tenant = 1", "0A000", "AND of WHERE"),
        (f"SELECT id FROM items WHERE query = {Q} AND k > 5", "0A000", "="),
        (f"SELECT id FROM items WHERE query = {Q} AND k = 0", "22023", "k"),
        (f"SELECT id FROM items WHERE query = {Q} AND k = 3 AND k = 4", "42601", "twice"),
        (f"SELECT id FROM items WHERE query = {Q} AND recall_target = 2", "22023", "recall"),
        (f"SELECT id FROM items WHERE query = {Q} AND consistency = 'x'", "22023", "strong"),
        (f"SELECT id FROM items WHERE query = {Q} AND filter = 'nope = 1'", "42703", "filter:"),
        (f"SELECT id FROM items WHERE query = {Q} AND filter = 'tenant ='", "42601", "filter:"),
        (f"SELECT id FROM items WHERE query = {Q} AND 1 / (tenant - tenant) > 0", "22012", "zero"),
        ("SELECT id FROM items LIMIT -1", "2201W", "LIMIT"),
        ("SELECT id FROM items OFFSET -1", "2201X", "OFFSET"),
        ("SELECT DISTINCT tenant FROM items", "0A000", "DISTINCT"),
        ("SELECT tenant, count(*) FROM items GROUP BY tenant", "0A000", "in your own"),
        ("SELECT max(price) FROM items", "42883", "max"),
        ("SELECT a.id FROM items a, items b", "0A000", "join"),
        ("SELECT a.id FROM items a JOIN items b USING (id)", "0A000", "join"),
        ("SELECT id FROM (SELECT id FROM items) x", "0A000", "FROM"),
        ("SELECT id FROM items FOR UPDATE", "0A000", "locking"),
        ("SELECT id FROM items UNION SELECT 1", "0A000", "UNION"),
        ("WITH x AS (SELECT 1) SELECT * FROM x", "0A000", "WITH"),
        ("SELECT b.id FROM items a", "42P01", "FROM-clause"),
        ("SELECT id FROM other.items", "42P01", "other.items"),
        ("SELECT id FROM nothing", "42P01", "nothing"),
        ("SELECT nothing FROM items", "42703", "nothing"),
        ("SELECT id FROM items ORDER BY 2", "42P10", "position 2"),
        ("SELECT embedding || 'x' FROM items", "0A000", "vector column"),
        ("SELECT id FROM search('items')", "42883", "search"),
        (f"SELECT id FROM search('nothing', {Q})", "42P01", "nothing"),
        (f"SELECT id FROM find('items', {Q})", "42883", "vecmirror.search"),
        ("UPDATE items SET tenant = 1", "25006", "only read"),
        ("CREATE TABLE x (y int)", "25006", "only read"),
        ("FROBNICATE", "42601", "FROBNICATE".lower()),
        ("SELECT id FROM items WHERE", "42601", "end"),
        ("SELECT id FROM items WHERE tenant = $1 AND price = $3", "08P01", "parameters"),
        ("SET nonsense = 1", "42704", "nonsense"),
        ("SET client_encoding = 'LATIN1'", "0A000", "UTF8"),
        ("SHOW nonsense", "42704", "nonsense"),
        ("FETCH 1 FROM nothing", "34000", "nothing"),
        ("EXECUTE nothing", "26000", "nothing"),
    ],
)  # fmt: skip
def test_what_is_not_served_says_what_to_do(
    items: Desk, text: str, sqlstate: str, says: str
) -> None:
    error = items.talk().error(text)
    assert error.sqlstate == sqlstate, error.message
    assert says in f"{error.message} {error.hint or ''}"


def test_errors_point_into_the_statement_that_was_sent(items: Desk) -> None:
    long = "'[" + ", ".join(["0.12345678901234567890"] * 3) + "]'"
    text = f"SELECT id FROM items WHERE query = {long} AND nonsense = 1"
    error = items.talk().error(text)
    assert error.position == text.index("nonsense") + 1


def test_no_error_shows_a_value(items: Desk) -> None:
    secret = "SeCrEt42"
    for text in (
        f"SELECT id FROM items WHERE tenant = '{secret}'",
        f"SELECT id FROM items WHERE query = '{secret}'",
        f"SELECT id FROM items WHERE query = {Q} AND filter = 'tenant = ''{secret}'''",
        f"SELECT id FROM items WHERE query = {Q} AND k = '{secret}'",
        f"SELECT id FROM items WHERE query = {Q} AND min_lsn = '{secret}'",
    ):
        error = items.talk().error(text)
        shown = f"{error.message} {error.hint} {error.detail}"
        assert secret not in shown


def test_text_and_uuid_keys_are_columns_too(tmp_path: Any) -> None:
    with desk(tmp_path, 100, key=(ColumnSpec("id", "text"),)) as made:
        talk = made.talk()
        kept = talk.rows("SELECT id FROM items WHERE id = ANY('{k3,k50,nothing}') ORDER BY id")
        assert kept == ["k3", "k50"]
        assert talk.rows("SELECT id FROM items WHERE id < 'k11' ORDER BY id DESC") == [
            "k10",
            "k1",
            "k0",
        ]
        # A row that changed has two row ids with one key; its new one alone is there.
        columns = {**{column.name: None for column in made.spec.table.columns}, "tenant": 77}
        made.change(200, [Change(Op.UPSERT, "k3", vector=(9.0, 9.0, 9.0), columns=columns)])
        made.change(201, [Change(Op.UPSERT, "new", vector=(8.0, 8.0, 8.0), columns=columns)])
        assert made.talk().rows("SELECT id, tenant FROM items WHERE id = 'k3'") == [("k3", 77)]
        assert made.talk().rows("SELECT id FROM items WHERE id >= 'n'") == ["new"]


def test_light_columns_make_room_for_mirrored_ones(tmp_path: Any) -> None:
    columns = (ColumnSpec("k", "int4"), ColumnSpec("distance", "float8"))
    with desk(tmp_path, 0, columns=columns) as made:
        made.change(200, [
            Change(Op.UPSERT, 1, vector=(0.0, 0.0, 1.0), columns={"k": 5, "distance": 7.0}),
            Change(Op.UPSERT, 2, vector=(0.0, 1.0, 0.0), columns={"k": 6, "distance": 8.0}),
        ])  # fmt: skip
        found = made.talk().rows(
            "SELECT id, k, distance, vm_distance, vm_k FROM items "
            "WHERE query = '[0,0,1]' AND vm_k = 9 AND k < 6"
        )
        assert found == [(1, 5, 7.0, 0.0, 9)]


@pytest.mark.parametrize(("metric", "operator"), [("cosine", "<=>"), ("ip", "<#>")])
def test_the_other_metrics_have_their_operators(
    tmp_path: Any, metric: Metric, operator: str
) -> None:
    with desk(tmp_path, 50, metric=metric) as made:
        found = made.talk().rows(
            f"SELECT id, embedding {operator} {Q} FROM items ORDER BY embedding {operator} {Q}"
        )
    rows, query = made.vectors.astype(float), QUERY.astype(float)
    products = rows @ query
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    distances = -products if metric == "ip" else 1 - products / norms
    assert [hit[0] for hit in found] == np.argsort(distances).tolist()
    np.testing.assert_allclose([hit[1] for hit in found], np.sort(distances), rtol=1e-4, atol=1e-6)


def test_halfvec_columns_come_as_halfvec(tmp_path: Any) -> None:
    with desk(tmp_path, 10, vector_type="halfvec") as made:
        said = made.talk()(f"SELECT embedding, query FROM items WHERE query = {Q} LIMIT 1")
    assert said.rows is not None
    assert [value.dtype for value in said.rows[0]] == [np.float16, np.float16]


def test_statement_timeout_ends_a_statement(tmp_path: Any) -> None:
    with desk(tmp_path, 10, settings=Settings()) as made:
        talk = made.talk()
        talk("SET statement_timeout = 50")
        text = f"SELECT id FROM items WHERE query = {Q} AND k = 1 AND min_lsn = '0/FFFF'"
        error = talk.error(text)
    assert error.sqlstate == "57014"
    assert "65435 bytes" in error.message
    assert "0/64" in (error.detail or "")
