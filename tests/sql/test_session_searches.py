"""Searches that share what they can: masks of filters, what repeats of a plan, and each other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgsync.changes import Op
from server.filters import Typed
from server.sql.binding import bind
from server.sql.hits import OneSearch
from server.sql.parameters import meaning_of, values_of
from server.sql.session import _plan
from tests.change_batches import Change
from tests.fix_sql_session import Desk, Talk, desk, literal

INT8_ARRAY = 1016
NEAREST = "SELECT id FROM items WHERE query = {} AND k = {}"


@pytest.fixture
def items(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk(tmp_path_factory.mktemp("searches"), 200) as made:
        yield made


def nearest(items: Desk, vector: Any, ids: list[int]) -> list[int]:
    """Return ``ids`` by their rows' distance to a vector."""
    distances = np.linalg.norm(items.vectors[ids] - vector, axis=1)
    return [ids[place] for place in np.argsort(distances, kind="stable")]


def upsert(items: Desk, key: int, tenant: int | None) -> Change:
    columns = {**items.rows[key], "tenant": tenant}
    del columns["id"]
    return Change(Op.UPSERT, key, vector=tuple(items.vectors[key].tolist()), columns=columns)


def test_a_kept_mask_follows_new_changed_and_deleted_rows(items: Desk) -> None:
    talk, vector = items.talk(), items.vectors[7]
    light = f"{NEAREST.format(literal(vector), 300)} AND filter = 'tenant < 5'"
    plain = f"{NEAREST.format(literal(vector), 300)} AND tenant < 5"
    tenants = {row["id"]: row["tenant"] for row in items.rows}
    for lsn, (key, tenant) in enumerate([(3, 1), (7, 19), (11, None), (3, 19), (12, 0)], 2):
        expected = nearest(
            items, vector, [key for key, one in tenants.items() if one is not None and one < 5]
        )
        for _ in range(2):
            assert talk.rows(light) == talk.rows(plain) == expected
            assert talk.rows("SELECT count(*) FROM items WHERE tenant < 5") == [len(expected)]
        items.change(100 * lsn, [upsert(items, key, tenant)])
        tenants[key] = tenant
    items.change(1000, [Change(Op.DELETE, 12)])
    assert 12 not in talk.rows(light)
    assert talk.rows(light) == talk.rows(plain)


def test_a_mask_kept_by_a_later_state_loses_no_row_of_an_earlier_one(items: Desk) -> None:
    earlier, later, vector = items.talk(), items.talk(), literal(items.vectors[7])
    for more in (" AND tenant < 5", " AND tenant < 6 AND filter = 'tenant >= 0'"):
        filtered = NEAREST.format(vector, 300) + more
        earlier("BEGIN")
        (key, *_) = earlier.rows(NEAREST.format(vector, 1) + more + " AND id > -1")
        items.change(items.mirror.state.applied_lsn + 100, [Change(Op.DELETE, key)])
        assert key not in later.rows(filtered)
        assert key in earlier.rows(filtered)
        earlier("COMMIT")


def test_one_statement_with_other_values_has_other_rows(items: Desk) -> None:
    talk = items.talk()
    text = "SELECT id FROM items WHERE query = $1 AND id = ANY ($2) ORDER BY distance LIMIT 5"
    rng = np.random.default_rng(5)
    kept = [sorted(rng.choice(200, 20, replace=False).tolist()) for _ in range(3)]
    for ids in [*kept, *kept, [], [3]]:
        vector = items.vectors[int(rng.integers(200))]
        found = talk.rows(text, vector, tuple(ids), oids=(0, INT8_ARRAY))
        assert found == nearest(items, vector, ids)[:5]


def test_what_one_filter_leaves_out_fails_no_other_one_kept_or_not(items: Desk) -> None:
    talk, vector = items.talk(), literal(items.vectors[0])
    items.change(200, [upsert(items, 5, 0)])
    divided = f"{NEAREST.format(vector, 300)} AND 100 / tenant > 9"
    for _ in range(2):
        assert talk.error(divided).sqlstate == "22012"
        found = talk.rows(f"{divided} AND filter = 'tenant <> 0'")
        assert 0 < len(found) < 200
    items.change(300, [upsert(items, 6, 0)])
    assert set(talk.rows(f"{divided} AND filter = 'tenant <> 0'")) == set(found) - {6}


def test_a_null_vector_between_others_finds_nothing_and_the_next_finds_its_own(
    items: Desk,
) -> None:
    talk, text = items.talk(), NEAREST.format("$1", 3)
    first, last = items.vectors[4], items.vectors[9]
    assert talk.rows(text, first)[0] == 4
    assert talk.rows(text, None) == []
    assert talk.rows(text, last)[0] == 9


def test_searches_of_several_sessions_meet_and_each_gets_its_own(items: Desk) -> None:
    vectors = items.vectors[20:40]
    alone = [items.talk().rows(NEAREST.format(literal(one), 4)) for one in vectors]

    async def together() -> list[list[Any]]:
        talks = [items.talk() for _ in vectors]
        asked = [
            talk._run(NEAREST.format(literal(vector), 4), (), ())
            for talk, vector in zip(talks, vectors, strict=True)
        ]
        return [[row[0] for row in said.rows or []] for said in await asyncio.gather(*asked)]

    assert items.runner.run(together()) == alone


def lane(items: Desk, talk: Talk, text: str) -> object:
    """Return the lane of a search."""
    prepared = items.runner.run(talk.session.prepare(text, ()))
    understood, lifted = _plan(prepared)
    assert understood.plan is not None
    bound = bind(understood.plan, values_of((), (), lifted.values))
    search = OneSearch.of(items.mirror.state, bound)
    return None if search is None else search.lane


def test_searches_are_one_where_they_differ_in_their_vectors_only(items: Desk) -> None:
    talk, other = items.talk(), items.talk()
    near, far = (literal(items.vectors[place]) for place in (1, 2))
    for more in ("", " AND tenant < 5", " AND filter = 'tenant < 5'", " AND recall_target = 0.9"):
        first = lane(items, talk, NEAREST.format(near, 4) + more)
        assert first is not None
        assert first == lane(items, other, NEAREST.format(far, 4) + more)
        assert first != lane(items, other, NEAREST.format(far, 5) + more)
        assert first != lane(items, other, NEAREST.format(far, 4) + " AND tenant < 6")
    assert lane(items, talk, f"SELECT id FROM items WHERE query = {near} ORDER BY id") is None


@given(st.lists(st.floats() | st.integers(-3, 3) | st.text(max_size=3), min_size=2, max_size=2))
def test_values_have_one_meaning_only_if_they_are_written_alike(values: list[Any]) -> None:
    one, other = (meaning_of(Typed(type(value).__name__, value)) for value in values)
    assert (one == other) == (repr(values[0]) == repr(values[1]))


def test_the_meaning_of_an_array_is_that_of_its_items() -> None:
    arrays = [(1, 2), (2, 1), (1, None), (), (1,), (0.0,), (-0.0,), ("1",)]
    assert len({meaning_of(Typed("x[]", one)) for one in arrays}) == len(arrays)
    assert meaning_of(Typed("int8[]", (1, 2))) == meaning_of(Typed("int8[]", (1, 2)))
    assert meaning_of(Typed("int8[]", (1, 2))) != meaning_of(Typed("int4[]", (1, 2)))


def test_a_kept_price_is_that_of_the_rows_there_are(items: Desk) -> None:
    talk = items.talk()
    text = "EXPLAIN SELECT id FROM items WHERE tenant < 5"
    found = sum(1 for row in items.rows if row["tenant"] is not None and row["tenant"] < 5)
    for _ in range(2):
        assert f"rows={found} " in talk.rows(text)[0]
    key = next(row["id"] for row in items.rows if row["tenant"] == 3)
    items.change(200, [upsert(items, key, 19)])
    assert f"rows={found - 1} " in talk.rows(text)[0]
    items.change(300, [upsert(items, key, 3)])
    assert f"rows={found} " in talk.rows(text)[0]
    items.change(400, [Change(Op.DELETE, key)])
    assert f"rows={found - 1} " in talk.rows(text)[0]
