"""A server whose backend is the card filters on it: over HTTP's search and in SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gpu import Backend
from gpu.cuda_backend import CudaBackend
from pgsync.table import ColumnSpec
from server.device_care import COLUMNS_REFUSED, FILTERS, DeviceCollector
from server.device_filters import TALLY
from server.filters import FilterError
from server.mirror import MirrorOptions
from server.searching import SearchRequest, search
from tests import fix_sql_session
from tests.change_batches import make_spec
from tests.cuda.emulator import EmulatedDevice, why_not
from tests.fix_mirrors import Feeder

COLUMNS = (
    ColumnSpec("price", "int4"),
    ColumnSpec("name", "text"),
    ColumnSpec("tags", "text[]"),
)
NAMES = ["shoe", "hat", "Shoe", None]
N_ROWS = 200

Row = dict[str, object]


def row(key: int) -> Row:
    price = None if key % 7 == 0 else key % 11
    return {"price": price, "name": NAMES[key % 4], "tags": ["a"] if key % 3 else []}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Feeder]:
    """Return a mirror of 200 rows on an emulated card, which tests every filter."""
    if reason := why_not():
        pytest.skip(reason)
    backend = CudaBackend(EmulatedDevice(schedule="random"), small_filter=0)
    feeder = Feeder(tmp_path, make_spec(columns=COLUMNS), backend=backend)
    feeder.copy({})
    add(feeder, range(N_ROWS), 200)
    yield feeder
    feeder.mirror.close()


def add(feeder: Feeder, keys: range, lsn: int) -> None:
    changes = [feeder.upsert(key, [key, 0.0, 1.0], columns=row(key)) for key in keys]
    feeder.change(lsn, *changes)


def keys_kept(feeder: Feeder, text: str, k: int = 1000) -> list[int]:
    """Return the keys that an exact search with a filter finds."""
    request = SearchRequest(k=k, queries=np.zeros((1, 3), np.float32), filter=text, exact=True)
    answer = search(feeder.mirror, request)
    ids = answer.row_ids[0]
    return sorted(int(str(key)) for key in answer.state.keys(ids[ids >= 0]))


def wanted(keys: range, keep: Callable[[Row], bool]) -> list[int]:
    return [key for key in keys if keep(row(key))]


def test_a_search_filters_on_the_card(shop: Feeder) -> None:
    before = TALLY.device
    found = keys_kept(shop, "price < 4 AND name ILIKE 'SH%'")
    assert TALLY.device == before + 1
    cheap = (0, 1, 2, 3)
    assert found == wanted(
        range(N_ROWS), lambda r: r["price"] in cheap and r["name"] in ("shoe", "Shoe")
    )


def test_rows_that_came_later_are_tested_alone_and_dead_ones_are_left_out(shop: Feeder) -> None:
    text = "price = 3 OR name IS NULL"

    def keep(r: Row) -> bool:
        return r["price"] == 3 or r["name"] is None

    assert keys_kept(shop, text) == wanted(range(N_ROWS), keep)
    add(shop, range(N_ROWS, N_ROWS + 70), 300)
    shop.change(400, shop.upsert(3, [3.0, 0.0, 1.0], columns={"price": 1, "name": "x", "tags": []}))
    before = TALLY.device
    everything = wanted(range(N_ROWS + 70), keep)
    assert keys_kept(shop, text) == [key for key in everything if key != 3]
    assert TALLY.device == before + 1


def test_an_error_is_the_evaluators(shop: Feeder) -> None:
    before = TALLY.host
    with pytest.raises(FilterError) as caught:
        keys_kept(shop, "10 / (price - 3) > 0")
    assert caught.value.sqlstate == "22012"
    assert TALLY.host == before + 1
    assert keys_kept(shop, "price <> 3 AND 10 / (price - 3) > 4") == wanted(
        range(N_ROWS), lambda r: r["price"] in (4, 5)
    )


def test_what_has_no_program_is_answered_all_the_same(shop: Feeder) -> None:
    before = TALLY.host
    assert keys_kept(shop, "(price * 1.5)::text = '4.5'") == wanted(
        range(N_ROWS), lambda r: r["price"] == 3
    )
    assert TALLY.host == before + 1


def test_a_select_filters_on_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := why_not():
        pytest.skip(reason)
    backend = CudaBackend(EmulatedDevice(schedule="random"), small_filter=0)

    def options(**given: bool) -> MirrorOptions:
        return MirrorOptions(backend=backend, **given)

    monkeypatch.setattr(fix_sql_session, "MirrorOptions", options)
    with fix_sql_session.desk(tmp_path) as desk:
        talk, before = desk.talk(), TALLY.device
        found = talk.rows("SELECT id FROM items WHERE tenant < 3 AND name LIKE '%e%' ORDER BY id")
        assert TALLY.device == before + 1
        kept = [r for r in desk.rows if r["tenant"] is not None and r["tenant"] < 3]
        assert found == sorted(r["id"] for r in kept if r["name"] and "e" in r["name"])
        assert found
        query = "SELECT id FROM items WHERE sold ORDER BY embedding <-> '[1,2,3]' LIMIT 5"
        assert len(talk.rows(query)) == 5
        assert TALLY.device == before + 2


def test_figures_tell_where_filters_ran_and_where_columns_did_not_fit(shop: Feeder) -> None:
    backend = shop.mirror.state.index.backend
    before = figures(backend)
    keys_kept(shop, "price = 1")
    keys_kept(shop, "(price * 1.5)::text = '4.5'")
    after = figures(backend)
    assert {where: after[where] - before[where] for where in after} == {"card": 1, "cpu": 1}


def figures(backend: Backend) -> dict[str, float]:
    """Return the filters counted so far, by where they ran."""
    families = {
        family.name: family for family in DeviceCollector(backend, lambda _: None).collect()
    }
    assert families[COLUMNS_REFUSED].samples[0].value == 0
    return {sample.labels["where"]: sample.value for sample in families[FILTERS].samples}
