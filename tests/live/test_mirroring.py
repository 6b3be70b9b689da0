"""The whole path on a real Postgres: after each kind of change the index equals the table.

Every test ends with ``mirrored.assert_equal()``: the row-by-row comparison at one LSN that
``vecmirror verify`` makes, which must find 0 differing rows.
"""

from __future__ import annotations

import threading

import numpy as np
import psycopg
import pytest

from tests.fix_mirroring import MakeMirrored

ITEMS = "id bigint PRIMARY KEY, price int, note text, embedding vector(8)"
RANDOM_VECTOR = (
    "(SELECT array_agg(random() - 0.5) FROM generate_series(1, {dim} + 0 * i))::vector({dim})"
)


def random_rows(first: int, last: int, dim: int = 8) -> str:
    """Return an INSERT of rows [first, last] of the ITEMS shape with random vectors."""
    vector = RANDOM_VECTOR.format(dim=dim)
    return (
        "INSERT INTO items SELECT i, i % 100, 'note ' || i, "
        f"{vector} FROM generate_series({first}, {last}) i"
    )


def test_rows_written_while_the_table_is_copied_are_neither_lost_nor_duplicated(
    make_mirrored: MakeMirrored,
) -> None:
    stop, written = threading.Event(), [0]

    def write(dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            key = 100_000
            while not stop.is_set():
                connection.execute(random_rows(key, key + 9).encode())
                connection.execute(
                    "UPDATE items SET price = price + 1 WHERE id BETWEEN %s AND %s", [key - 5, key]
                )
                connection.execute("DELETE FROM items WHERE id = %s", [key - 3])
                connection.execute("UPDATE items SET id = -id WHERE id = %s", [key + 1])
                key, written[0] = key + 10, written[0] + 1

    mirrored = make_mirrored(ITEMS, fill=random_rows(1, 20_000), attach=False)
    writer = threading.Thread(target=write, args=[mirrored.dsn])
    writer.start()
    try:
        mirrored.attach(columns=("price",))
        mirrored.wait_live()
        rounds_while_copying = written[0]
        mirrored.catch_up()
    finally:
        stop.set()
        writer.join()
    assert rounds_while_copying > 0
    mirrored.assert_equal()


def test_insert_update_delete_and_truncate_reach_the_index(make_mirrored: MakeMirrored) -> None:
    mirrored = make_mirrored(ITEMS, fill=random_rows(1, 100), columns=("price", "note"))
    mirrored.execute(random_rows(101, 150))
    mirrored.execute("UPDATE items SET embedding = '[1,2,3,4,5,6,7,8]', price = 7 WHERE id <= 10")
    mirrored.execute("UPDATE items SET note = NULL WHERE id = 20")
    mirrored.execute("DELETE FROM items WHERE id BETWEEN 30 AND 39")
    mirrored.assert_equal()
    hits = mirrored.search([1, 2, 3, 4, 5, 6, 7, 8], k=10, columns=("price",))
    assert {hit["key"] for hit in hits} == set(range(1, 11))
    assert [hit["columns"]["price"] for hit in hits] == [7] * 10

    mirrored.execute("TRUNCATE items")
    assert mirrored.search([1] * 8, k=5) == []
    mirrored.execute(random_rows(1, 5))
    mirrored.assert_equal()
    assert mirrored.rows() == 5


def test_truncate_inside_a_transaction_spares_the_rows_inserted_after_it(
    make_mirrored: MakeMirrored,
) -> None:
    mirrored = make_mirrored(ITEMS, fill=random_rows(1, 50))
    with mirrored.connect() as connection, connection.transaction():
        connection.execute(random_rows(51, 60).encode())
        connection.execute("TRUNCATE items")
        connection.execute(random_rows(61, 63).encode())
    mirrored.assert_equal()
    assert mirrored.rows() == 3


def test_an_unchanged_toasted_vector_is_kept(make_mirrored: MakeMirrored) -> None:
    shape = "id bigint PRIMARY KEY, price int, note text, embedding vector(1536)"
    mirrored = make_mirrored(shape, fill=random_rows(1, 60, dim=1536), columns=("price",))
    mirrored.execute("UPDATE items SET price = 1000 WHERE id % 2 = 0")
    mirrored.execute("UPDATE items SET embedding = embedding WHERE id % 3 = 0")
    with mirrored.connect() as connection, connection.transaction():
        connection.execute(random_rows(61, 62, dim=1536).encode())
        connection.execute("UPDATE items SET price = -1 WHERE id IN (1, 61)")
        connection.execute("UPDATE items SET id = 1061 WHERE id = 61")
    mirrored.assert_equal()
    assert mirrored.rows() == 62


def test_a_changed_key_renames_the_row(make_mirrored: MakeMirrored) -> None:
    shape = "id bigint PRIMARY KEY, price int, note text, embedding vector(1536)"
    mirrored = make_mirrored(shape, fill=random_rows(1, 30, dim=1536))
    mirrored.execute("UPDATE items SET id = id + 1000 WHERE id <= 10")
    with mirrored.connect() as connection, connection.transaction():  # swap two keys
        connection.execute("UPDATE items SET id = -1 WHERE id = 20")
        connection.execute("UPDATE items SET id = 20 WHERE id = 21")
        connection.execute("UPDATE items SET id = 21 WHERE id = -1")
    mirrored.assert_equal()
    assert mirrored.rows() == 30


def test_rolled_back_work_is_never_seen(make_mirrored: MakeMirrored) -> None:
    mirrored = make_mirrored(ITEMS, fill=random_rows(1, 20))
    with mirrored.connect() as connection:
        with connection.transaction(force_rollback=True):
            connection.execute(random_rows(21, 40).encode())
            connection.execute("DELETE FROM items WHERE id <= 10")
        with connection.transaction():
            connection.execute(random_rows(41, 45).encode())
            with connection.transaction(force_rollback=True):  # a savepoint
                connection.execute(random_rows(46, 60).encode())
                connection.execute("UPDATE items SET price = -5")
            connection.execute("DELETE FROM items WHERE id = 1")
    mirrored.assert_equal()
    assert mirrored.rows() == 24


def test_a_transaction_of_200_000_rows_becomes_visible_whole_or_not_at_all(
    make_mirrored: MakeMirrored,
) -> None:
    mirrored = make_mirrored(ITEMS, fill=random_rows(1, 10), train_from_rows=1_000_000)
    seen: set[int] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.add(mirrored.rows())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with mirrored.connect() as connection, connection.transaction():
            connection.execute(
                b"INSERT INTO items SELECT i, i % 100, 'note', ARRAY[i % 7, i % 11, i % 13, i % 17,"
                b" i % 19, i % 23, i % 29, i % 31]::vector(8) FROM generate_series(11, 200010) i"
            )
        mirrored.catch_up()
        seen.add(mirrored.rows())
    finally:
        stop.set()
        watcher.join()
    assert seen == {10, 200_010}
    mirrored.assert_equal()


def test_rows_without_a_vector_come_and_go(make_mirrored: MakeMirrored) -> None:
    mirrored = make_mirrored(ITEMS, fill=random_rows(1, 20))
    mirrored.execute("INSERT INTO items VALUES (100, 1, 'no vector', NULL)")
    mirrored.execute("UPDATE items SET embedding = NULL WHERE id IN (1, 2)")
    mirrored.assert_equal()
    assert mirrored.rows() == 18
    assert mirrored.describe()["excluded"]["null_vector"] == 3
    mirrored.execute("UPDATE items SET embedding = '[1,1,1,1,1,1,1,1]' WHERE id IN (1, 100)")
    mirrored.execute("DELETE FROM items WHERE id = 2")
    mirrored.assert_equal()
    assert mirrored.rows() == 20
    assert mirrored.describe()["excluded"]["null_vector"] == 0


def test_vectors_of_another_dimension_are_left_out_and_counted(
    make_mirrored: MakeMirrored,
) -> None:
    mirrored = make_mirrored(
        "id bigint PRIMARY KEY, embedding vector",
        fill="INSERT INTO items SELECT i, ARRAY[i, 1, 2]::vector FROM generate_series(1, 20) i",
    )
    mirrored.execute("INSERT INTO items VALUES (21, '[1,2,3,4]'), (22, '[5,6,7]')")
    mirrored.execute("UPDATE items SET embedding = '[1,2]' WHERE id = 5")
    mirrored.assert_equal()
    assert mirrored.rows() == 20
    assert mirrored.describe()["excluded"]["wrong_dimension"] == 2


def test_vectors_that_are_not_finite_are_left_out_and_counted(
    make_mirrored: MakeMirrored,
) -> None:
    mirrored = make_mirrored(
        "id bigint PRIMARY KEY, embedding float4[]",
        fill="INSERT INTO items SELECT i, ARRAY[i, 1, 2] FROM generate_series(1, 20) i",
    )
    mirrored.execute("INSERT INTO items VALUES (21, '{1,NaN,3}'), (22, '{1,2,Infinity}')")
    mirrored.execute("INSERT INTO items VALUES (23, '{1,NULL,3}'), (24, '{}'), (25, NULL)")
    mirrored.execute("UPDATE items SET embedding = '{1,-Infinity,2}' WHERE id = 3")
    mirrored.assert_equal()
    assert mirrored.rows() == 19
    assert mirrored.describe()["excluded"]["not_finite"] == 3


def test_unrelated_columns_may_be_added_dropped_and_renamed(make_mirrored: MakeMirrored) -> None:
    mirrored = make_mirrored(ITEMS, fill=random_rows(1, 30), columns=("price",))
    mirrored.execute("ALTER TABLE items ADD COLUMN extra text DEFAULT 'x'")
    mirrored.execute("INSERT INTO items VALUES (31, 3, 'n', '[1,2,3,4,5,6,7,8]', 'y')")
    mirrored.execute("ALTER TABLE items RENAME COLUMN note TO remark")
    mirrored.execute("UPDATE items SET remark = 'changed', price = 9 WHERE id = 4")
    mirrored.execute("ALTER TABLE items DROP COLUMN remark")
    mirrored.execute("DELETE FROM items WHERE id = 5")
    mirrored.execute("ALTER TABLE items DROP COLUMN extra")
    mirrored.execute("INSERT INTO items (id, price, embedding) VALUES (32, 1, '[8,7,6,5,4,3,2,1]')")
    mirrored.assert_equal()
    assert mirrored.rows() == 31


def test_a_rewritten_vector_column_is_copied_again(make_mirrored: MakeMirrored) -> None:
    mirrored = make_mirrored(ITEMS, fill=random_rows(1, 200), attach=False)
    # Full identity forbids a column list, and without one Postgres allows the change of type.
    mirrored.execute("ALTER TABLE items REPLICA IDENTITY FULL")
    mirrored.attach()
    mirrored.wait_live()
    before = mirrored.describe()["epoch"]
    mirrored.execute(
        "ALTER TABLE items ALTER COLUMN embedding TYPE vector(8)"
        " USING (embedding::real[]::vector(8) + '[1,1,1,1,1,1,1,1]')"
    )
    mirrored.wait_until(lambda description: description["epoch"] > before)
    mirrored.wait_live()
    mirrored.assert_equal()


COLUMN_TYPES = {
    "a_bool": ("bool", "CASE WHEN i % 5 > 0 THEN i % 2 = 0 END"),
    "a_int2": ("smallint", "i % 100"),
    "a_int8": ("bigint", "i * 10000000000"),
    "a_float4": ("real", "CASE i % 4 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE i / 3.0 END"),
    "a_float8": ("double precision", "CASE WHEN i % 7 > 0 THEN i / 7.0 END"),
    "a_text": ("text", "CASE WHEN i % 3 > 0 THEN 'téxt ' || i % 10 END"),
    "a_varchar": ("varchar(20)", "'v' || i % 4"),
    "a_time": ("timestamptz", "CASE i % 6 WHEN 0 THEN 'infinity' ELSE now() - '1h'::interval END"),
    "a_date": ("date", "CASE i % 6 WHEN 0 THEN NULL ELSE current_date - i END"),
    "a_uuid": ("uuid", "md5(i::text)::uuid"),
    "some_ints": ("int[]", "CASE i % 4 WHEN 0 THEN '{}' WHEN 1 THEN NULL ELSE ARRAY[i, NULL] END"),
    "some_texts": ("text[]", "CASE i % 3 WHEN 0 THEN NULL ELSE ARRAY['a' || i % 5, NULL] END"),
}  # fmt: skip


def test_filter_columns_of_every_type_are_mirrored(make_mirrored: MakeMirrored) -> None:
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in COLUMN_TYPES.items())
    values = ", ".join(f"({value})::{kind}" for kind, value in COLUMN_TYPES.values())
    insert = (
        "INSERT INTO items SELECT i, ARRAY[i, i % 3, 1]::vector(3), {} "
        "FROM generate_series({}, {}) i"
    )
    mirrored = make_mirrored(
        f"id bigint PRIMARY KEY, embedding vector(3), {columns}",
        fill=insert.format(values, 1, 50),
        columns=tuple(COLUMN_TYPES),
    )
    mirrored.execute(insert.format(values, 51, 80))
    mirrored.execute("UPDATE items SET a_text = 'changed', some_ints = '{1,2}' WHERE id < 10")
    mirrored.execute("UPDATE items SET embedding = '[1,2,3]' WHERE id = 60")
    mirrored.assert_equal()


@pytest.mark.parametrize(
    ("kind", "cast"),
    [("halfvec(4)", "halfvec(4)"), ("sparsevec(4)", "vector(4)::sparsevec"),
     ("float4[]", "float4[]"), ("float8[]", "float8[]")],
)  # fmt: skip
def test_vector_columns_of_every_type_are_mirrored(
    make_mirrored: MakeMirrored, kind: str, cast: str
) -> None:
    insert = (
        "INSERT INTO items SELECT i, ARRAY[i, 0, i % 7, 0.5]::{} FROM generate_series({}, {}) i"
    )
    mirrored = make_mirrored(
        f"id bigint PRIMARY KEY, embedding {kind}", fill=insert.format(cast, 1, 40)
    )
    mirrored.execute(insert.format(cast, 41, 60))
    mirrored.execute("DELETE FROM items WHERE id = 7")
    mirrored.assert_equal()
    assert [hit["key"] for hit in mirrored.search([50, 0, 1, 0.5], k=1)] == [50]


@pytest.mark.parametrize(
    ("key", "expression"),
    [("k smallint PRIMARY KEY", "i"), ("k uuid PRIMARY KEY", "md5(i::text)::uuid"),
     ("k text PRIMARY KEY", "'clé ' || i"),
     ("k int, t text, PRIMARY KEY (t, k)", "i, 't' || i % 3")],
)  # fmt: skip
def test_keys_of_every_type_identify_rows(
    make_mirrored: MakeMirrored, key: str, expression: str
) -> None:
    insert = "INSERT INTO items SELECT {}, ARRAY[i, 1, 2]::vector(3) FROM generate_series({}, {}) i"
    mirrored = make_mirrored(f"{key}, embedding vector(3)", fill=insert.format(expression, 1, 30))
    mirrored.execute(insert.format(expression, 31, 40))
    mirrored.execute("UPDATE items SET embedding = '[0,0,1]' WHERE embedding <-> '[5,1,2]' = 0")
    mirrored.execute("DELETE FROM items WHERE embedding <-> '[6,1,2]' = 0")
    mirrored.assert_equal()
    assert mirrored.rows() == 39


@pytest.mark.parametrize(("metric", "operator"), [("l2", "<->"), ("cosine", "<=>"), ("ip", "<#>")])
def test_distances_equal_those_of_pgvector(
    make_mirrored: MakeMirrored, metric: str, operator: str
) -> None:
    shape = "id bigint PRIMARY KEY, price int, note text, embedding vector(48)"
    mirrored = make_mirrored(
        shape, fill=random_rows(1, 3_000, dim=48), metric=metric, train_from_rows=2_000
    )
    mirrored.wait_until(lambda description: description["trained"])
    query = np.random.default_rng(7).standard_normal(48).astype(np.float32)
    hits = mirrored.search(query.tolist(), k=20)
    with mirrored.connect() as connection:
        expected: dict[int, float] = dict(
            connection.execute(
                f"SELECT id, embedding {operator} %s::vector FROM items".encode(),
                [str(query.tolist())],
            ).fetchall()
        )
    assert len(hits) == 20
    for hit in hits:
        assert hit["distance"] == pytest.approx(expected[hit["key"]], rel=1e-5, abs=1e-6)
    exact = mirrored.search(query.tolist(), k=20, exact=True)
    nearest = sorted(expected, key=lambda key: expected[key])[:20]
    assert [hit["key"] for hit in exact] == nearest
