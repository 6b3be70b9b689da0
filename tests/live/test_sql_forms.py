"""Every form in which SQL asks an index: the rows are right, and the plan sends what it should."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest

from tests.fix_sql import DIM, ROWS, SqlClient, plan_of, query_vector, remote_sql

Q = query_vector(1)
EXACT = "SELECT id FROM items {where} ORDER BY embedding <-> %s::vector LIMIT {limit}"


@pytest.fixture
def db(sql_client: SqlClient) -> Iterator[psycopg.Connection]:
    """Return a connection to the client database."""
    with sql_client.connect() as connection:
        yield connection


def ids(db: psycopg.Connection, query: str, *parameters: object) -> list[int]:
    """Return the first column."""
    return [row[0] for row in db.execute(query.encode(), parameters).fetchall()]


def nearest(db: psycopg.Connection, limit: int = 10, where: str = "") -> list[int]:
    """Return what pgvector's exact search finds in the base table."""
    query = EXACT.format(where=f"WHERE {where}" if where else "", limit=limit)
    return ids(db, query, Q)


class TestTheLightForm:
    """``WHERE query = .. AND k = ..``: ids and distances only, joined with the rows."""

    JOIN = (
        "SELECT i.id, i.title, s.distance FROM vecmirror.items_light s JOIN items i USING (id)"
        " WHERE s.query = %s::vector AND s.k = 10 ORDER BY s.distance"
    )

    def test_joins_its_hits_with_rows_by_their_key(self, db: psycopg.Connection) -> None:
        assert ids(db, self.JOIN, Q) == nearest(db)
        plan = plan_of(db, self.JOIN, [Q])
        assert "Nested Loop" in plan
        assert "Index Scan using items_pkey" in plan
        (sent,) = remote_sql(plan)
        assert "query" in sent
        assert re.search("k = 10|10 = k", sent), sent
        assert "embedding" not in sent

    def test_distances_are_those_of_pgvector(self, db: psycopg.Connection) -> None:
        rows = db.execute(
            "SELECT s.distance, i.embedding <-> %s::vector FROM vecmirror.items_light s"
            " JOIN items i USING (id) WHERE s.query = %s::vector AND s.k = 25",
            [Q, Q],
        ).fetchall()
        assert len(rows) == 25
        assert all(ours == pytest.approx(theirs, rel=1e-5) for ours, theirs in rows)

    def test_takes_a_filter_as_text(self, db: psycopg.Connection) -> None:
        found = ids(
            db,
            "SELECT id FROM vecmirror.items_light WHERE query = %s::vector AND k = 10"
            " AND filter = 'tenant = 3 AND price < 50' ORDER BY distance",
            Q,
        )
        assert found == nearest(db, 10, "tenant = 3 AND price < 50")

    def test_asks_for_no_estimates(self, db: psycopg.Connection, sql_client: SqlClient) -> None:
        (options,) = db.execute(
            "SELECT ftoptions FROM pg_foreign_table"
            " WHERE ftrelid = 'vecmirror.items_light'::regclass"
        ).fetchone() or ([],)
        assert "use_remote_estimate=false" in options


class TestPgvectorSyntax:
    """``ORDER BY embedding <-> $1 LIMIT 10``: one table name is what changes."""

    QUERY = "SELECT id FROM {} WHERE {} ORDER BY embedding <-> %s::vector LIMIT 10"

    @pytest.mark.parametrize(
        ("where", "sent_as"),
        [
            ("true", None),
            ("tenant = 7", r"tenant = 7"),
            ("tenant IN (1, 2, 3)", r"tenant = ANY"),
            ("tenant NOT IN (1, 2)", r"tenant <> ALL"),
            ("price BETWEEN 10 AND 40", r"price <= "),
            ("category = 'shoe'", r"category = 'shoe'"),
            ("category < 'hat'", r"category < 'hat'"),
            ("category LIKE 's%%'", r"category ~~ 's%'"),
            ("category ILIKE 'S%%'", r"category ~~\* 'S%'"),
            ("category IS NULL", r"category IS NULL"),
            ("category IS DISTINCT FROM 'hat'", r"IS DISTINCT FROM"),
            ("NOT active", r"NOT active"),
            ("active OR price > 90", r" OR "),
            ("tags && ARRAY['t1', 't2']", r"&&"),
            ("tags @> ARRAY['t3']", r"@>"),
            ("'t4' = ANY (tags)", r"ANY \(tags\)"),
            ("tenant %% 2 = 0", r"% 2"),
            ("tenant + 1 > 5", r"\+ 1"),
            ("upper(category) = 'HAT'", r"upper\(category\)"),
            ("created > '2026-01-01 12:00Z'", r"created > "),
            ("CASE WHEN active THEN tenant ELSE 0 END > 10", r"CASE WHEN"),
        ],
    )
    def test_conditions_travel(
        self, db: psycopg.Connection, where: str, sent_as: str | None
    ) -> None:
        query = self.QUERY.format("vecmirror.items", where)
        assert ids(db, query, Q) == ids(db, self.QUERY.format("items", where), Q)
        (sent,) = remote_sql(plan_of(db, query, [Q]))
        assert "ORDER BY" in sent
        assert "LIMIT 10" in sent
        if sent_as:
            assert re.search(sent_as, sent), sent

    def test_a_condition_that_stays_here_only_costs_the_limit(self, db: psycopg.Connection) -> None:
        where = "coalesce(category, 'none') = 'none'"
        query = self.QUERY.format("vecmirror.items", where)
        (sent,) = remote_sql(plan_of(db, query, [Q]))
        assert "coalesce" not in sent.lower()
        assert "LIMIT" not in sent
        assert ids(db, query, Q) == nearest(db, 10, where)

    @pytest.mark.parametrize("operator", ["<=>", "<#>"])
    def test_another_metric_than_the_index_has_is_computed_here(
        self, db: psycopg.Connection, operator: str
    ) -> None:
        query = f"SELECT id FROM {{}} ORDER BY embedding {operator} %s::vector LIMIT 3"
        asked = query.format("vecmirror.items")
        assert ids(db, asked, Q) == ids(db, query.format("items"), Q)
        (sent,) = remote_sql(plan_of(db, asked, [Q]))
        assert "ORDER BY" not in sent

    def test_a_range_comes_back_whole(self, db: psycopg.Connection) -> None:
        where = "WHERE embedding <-> %s::vector < 1.05"
        found = ids(db, f"SELECT id FROM vecmirror.items {where}", Q)
        assert sorted(found) == sorted(ids(db, f"SELECT id FROM items {where}", Q))
        assert len(found) > 10
        (sent,) = remote_sql(plan_of(db, f"SELECT id FROM vecmirror.items {where}", [Q]))
        assert "< 1.05" in sent.replace("'", "")

    def test_pages_follow_one_another(self, db: psycopg.Connection) -> None:
        query = (
            "SELECT id FROM vecmirror.items WHERE tenant < 10"
            " ORDER BY embedding <-> %s::vector LIMIT 10 OFFSET {}"
        )
        pages = [found for offset in (0, 10, 20) for found in ids(db, query.format(offset), Q)]
        assert pages == nearest(db, 30, "tenant < 10")

    def test_an_iterated_scan_ends_with_the_last_row(self, db: psycopg.Connection) -> None:
        found = ids(
            db, "SELECT id FROM vecmirror.items ORDER BY embedding <-> %s::vector LIMIT 5000", Q
        )
        assert found == nearest(db, ROWS)


class TestJoins:
    """Searches that live tables filter, drive, or are joined with."""

    def test_a_limit_outside_of_the_join_goes_on_until_there_are_enough_rows(
        self, db: psycopg.Connection
    ) -> None:
        query = (
            "SELECT i.id FROM vecmirror.items s JOIN items i USING (id)"
            " WHERE s.query = %s::vector AND i.title LIKE 'item 1%%5'"
            " ORDER BY s.distance LIMIT 10"
        )
        assert ids(db, query, Q) == nearest(db, 10, "title LIKE 'item 1%%5'")
        (sent,) = remote_sql(plan_of(db, query, [Q]))
        assert "LIMIT" not in sent

    def test_a_limit_inside_takes_the_nearest_first(self, db: psycopg.Connection) -> None:
        query = (
            "SELECT i.id FROM (SELECT id, distance FROM vecmirror.items WHERE query = %s::vector"
            " AND tenant = 4 ORDER BY distance LIMIT 10) s JOIN items i USING (id)"
            " ORDER BY s.distance"
        )
        assert ids(db, query, Q) == nearest(db, 10, "tenant = 4")
        (sent,) = remote_sql(plan_of(db, query, [Q]))
        assert "LIMIT 10" in sent

    def test_lateral_finds_the_neighbours_of_each_row(self, db: psycopg.Connection) -> None:
        query = (
            "SELECT b.id, s.id FROM items b CROSS JOIN LATERAL (SELECT id FROM vecmirror.items"
            " WHERE query = b.embedding AND tenant <> b.tenant ORDER BY distance LIMIT 3) s"
            " WHERE b.id IN (5, 50, 500)"
        )
        found = db.execute(query.encode()).fetchall()
        expected = db.execute(
            query.replace("vecmirror.items", "items")
            .replace("WHERE query = b.embedding AND tenant", "WHERE tenant")
            .replace("ORDER BY distance", "ORDER BY embedding <-> b.embedding")
            .encode()
        ).fetchall()
        assert sorted(found) == sorted(expected)
        assert len(found) == 9
        (sent,) = remote_sql(plan_of(db, query))
        assert re.search(r"\$1", sent)
        assert "LIMIT 3" in sent

    def test_a_sub_query_travels_as_a_set_of_ids(self, db: psycopg.Connection) -> None:
        query = (
            "SELECT id FROM vecmirror.items WHERE id = ANY (ARRAY(SELECT id FROM items"
            " WHERE title LIKE '%%7')) ORDER BY embedding <-> %s::vector LIMIT 10"
        )
        assert ids(db, query, Q) == nearest(db, 10, "title LIKE '%%7'")
        (sent,) = remote_sql(plan_of(db, query, [Q]))
        assert re.search(r"id = ANY \(\$1", sent), sent

    def test_two_searches_in_one_statement(self, db: psycopg.Connection) -> None:
        other = query_vector(2)
        both = ids(
            db,
            "SELECT a.id FROM (SELECT id FROM vecmirror.items WHERE query = %s::vector AND k = 400)"
            " a JOIN (SELECT id FROM vecmirror.items WHERE query = %s::vector AND k = 400) b"
            " USING (id)",
            *(Q, other),
        )
        expected = set(nearest(db, 400)) & set(ids(db, EXACT.format(where="", limit=400), other))
        assert set(both) == expected
        assert expected

    def test_rows_deleted_here_are_replaced_by_the_next(self, db: psycopg.Connection) -> None:
        outside = (
            "SELECT i.id FROM vecmirror.items s JOIN items i USING (id)"
            " WHERE s.query = %s::vector ORDER BY s.distance LIMIT 10"
        )
        with db.transaction(force_rollback=True):
            gone = nearest(db)[:3]
            db.execute("DELETE FROM items WHERE id = ANY(%s)", [gone])
            assert ids(db, outside, Q) == nearest(db)


class TestPlanning:
    """Prepared statements, estimates, statistics."""

    def test_a_generic_plan_keeps_everything_remote(self, db: psycopg.Connection) -> None:
        db.execute("SET plan_cache_mode = force_generic_plan")
        db.execute(
            "PREPARE near (vector, int, int) AS SELECT i.id FROM (SELECT id, distance"
            " FROM vecmirror.items WHERE query = $1 AND tenant = $2 ORDER BY distance LIMIT $3) s"
            " JOIN items i USING (id) ORDER BY s.distance"
        )
        assert ids(db, f"EXECUTE near ('{Q}', 6, 10)") == nearest(db, 10, "tenant = 6")
        (sent,) = remote_sql(plan_of(db, f"EXECUTE near ('{Q}', 6, 10)"))
        assert re.search(r"query OPERATOR\(public\.=\) \$\d", sent), sent
        assert "LIMIT $" in sent

    def test_a_generic_plan_of_pgvector_syntax(self, db: psycopg.Connection) -> None:
        db.execute("SET plan_cache_mode = force_generic_plan")
        db.execute(
            "PREPARE nearest (vector, int) AS SELECT id FROM vecmirror.items WHERE tenant < $2"
            " ORDER BY embedding <-> $1 LIMIT 10"
        )
        assert ids(db, f"EXECUTE nearest ('{Q}', 9)") == nearest(db, 10, "tenant < 9")

    def test_counts_are_exact(self, db: psycopg.Connection) -> None:
        assert ids(db, "SELECT count(*) FROM vecmirror.items") == [ROWS]
        assert ids(db, "SELECT count(*) FROM vecmirror.items WHERE tenant = 3") == [ROWS // 20]
        found = ids(
            db, "SELECT count(*) FROM vecmirror.items WHERE query = %s::vector AND k = 7", Q
        )
        assert found == [7]

    def test_estimates_come_from_the_index(self, db: psycopg.Connection) -> None:
        rows = db.execute(
            "EXPLAIN SELECT id FROM vecmirror.items WHERE tenant = 3 AND query = %s::vector", [Q]
        ).fetchall()
        assert f"rows={ROWS // 20} " in rows[0][0]

    def test_analyze_takes_a_sample(self, db: psycopg.Connection) -> None:
        db.execute("ANALYZE vecmirror.items (id, tenant, category)")
        found = ids(
            db,
            "SELECT n_distinct FROM pg_stats"
            " WHERE schemaname = 'vecmirror' AND tablename = 'items' AND attname = 'tenant'",
        )
        assert found == [20]

    def test_import_foreign_schema_declares_the_same_columns(self, db: psycopg.Connection) -> None:
        db.execute("CREATE SCHEMA imported")
        try:
            db.execute(
                "IMPORT FOREIGN SCHEMA vecmirror LIMIT TO (items) FROM SERVER vecmirror"
                " INTO imported"
            )
            columns = (
                "SELECT attname::text, format_type(atttypid, atttypmod), attcollation"
                " FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum"
            )
            imported = db.execute(columns.encode(), ["imported.items"]).fetchall()
            assert imported == db.execute(columns.encode(), ["vecmirror.items"]).fetchall()
            query = (
                "SELECT id FROM imported.items WHERE query = %s::vector ORDER BY distance LIMIT 3"
            )
            assert ids(db, query, Q) == nearest(db, 3)
        finally:
            db.execute("DROP SCHEMA imported CASCADE")


class TestErrors:
    """What cannot be answered is an error that says what to do; it reaches the client whole."""

    @pytest.mark.parametrize(
        ("query", "sqlstate", "said"),
        [
            ("SELECT distance FROM vecmirror.items LIMIT 3", None, "query"),
            ("SELECT id FROM vecmirror.items_light WHERE k = 2", None, "query"),
            (
                f"SELECT id FROM vecmirror.items WHERE query = '{Q}' AND filter = 'prise < 2'",
                "42703",
                "prise",
            ),
            (
                "SELECT id FROM vecmirror.items ORDER BY embedding <-> '[1,2,3]' LIMIT 1",
                None,
                str(DIM),
            ),
            (f"SELECT id FROM vecmirror.items WHERE query = '{Q}' AND k = -1", None, "k"),
        ],
    )
    def test_comes_with_its_cure(
        self, db: psycopg.Connection, query: str, sqlstate: str | None, said: str
    ) -> None:
        with pytest.raises(psycopg.Error) as refused:
            db.execute(query.encode()).fetchall()
        diag = refused.value.diag
        told = f"{diag.message_primary} {diag.message_hint}"
        assert said in told
        if sqlstate:
            assert diag.sqlstate == sqlstate

    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO vecmirror.items (id) VALUES (1)",
            "UPDATE vecmirror.items SET tenant = 1",
            "DELETE FROM vecmirror.items",
            "TRUNCATE vecmirror.items",
        ],
    )
    def test_nothing_can_be_written(self, db: psycopg.Connection, statement: str) -> None:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="does not allow"):
            db.execute(statement.encode())

    def test_an_error_in_a_subtransaction_leaves_the_rest(self, db: psycopg.Connection) -> None:
        db.execute(
            """
            CREATE FUNCTION pg_temp.tried(q vector) RETURNS bigint[] LANGUAGE plpgsql AS $$
            DECLARE found bigint[]; part bigint[];
            BEGIN
                found := ARRAY(SELECT id FROM vecmirror.items WHERE query = q
                               ORDER BY distance LIMIT 2);
                FOR attempt IN 1..3 LOOP
                    BEGIN
                        PERFORM distance FROM vecmirror.items_light
                            WHERE query = q AND filter = 'no such thing';
                    EXCEPTION WHEN OTHERS THEN
                        part := ARRAY(SELECT id FROM vecmirror.items WHERE query = q
                                      ORDER BY distance LIMIT 2 OFFSET 2 * attempt);
                        found := found || part;
                    END;
                END LOOP;
                RETURN found;
            END $$
            """
        )
        ((found,),) = db.execute("SELECT pg_temp.tried(%s::vector)", [Q]).fetchall()
        assert found == nearest(db, 8)

    def test_savepoints_come_and_go(self, db: psycopg.Connection) -> None:
        query = "SELECT id FROM vecmirror.items WHERE query = %s::vector ORDER BY distance LIMIT 3"
        with db.transaction():
            first = ids(db, query, Q)
            with pytest.raises(psycopg.Error), db.transaction():
                ids(db, "SELECT distance FROM vecmirror.items LIMIT 1")
            with db.transaction():
                assert ids(db, query, Q) == first
            assert ids(db, query, Q) == first == nearest(db, 3)
