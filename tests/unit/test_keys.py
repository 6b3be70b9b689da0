"""Keys come back as they went in, for every type that can identify a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pgsync.changes import ARROW_TYPES
from pgsync.table import ColumnSpec
from server.keys import KeyRows, raw_keys

PARTS: dict[str, st.SearchStrategy[Any]] = {
    "int2": st.integers(-(2**15), 2**15 - 1),
    "int4": st.integers(-(2**31), 2**31 - 1),
    "int8": st.integers(-(2**63), 2**63 - 1),
    "uuid": st.uuids(),
    "text": st.text(st.characters(codec="utf-8"), max_size=4),
}


@st.composite
def keyed(draw: st.DrawFn) -> tuple[list[ColumnSpec], list[Any]]:
    """Return key columns and public keys of them."""
    types = draw(st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=3))
    specs = [ColumnSpec(f"k{n}", column_type) for n, column_type in enumerate(types)]
    strategy = PARTS[types[0]] if len(types) == 1 else st.tuples(*[PARTS[t] for t in types])
    return specs, draw(st.lists(strategy, max_size=5))


def batch(specs: list[ColumnSpec], keys: list[Any], prefix: str = "key:") -> pa.RecordBatch:
    arrays = []
    for number, spec in enumerate(specs):
        parts = [key[number] if isinstance(key, tuple) else key for key in keys]
        parts = [getattr(part, "bytes", part) for part in parts]
        arrays.append(pa.array(parts, ARROW_TYPES[spec.type]))
    return pa.RecordBatch.from_arrays(arrays, names=[f"{prefix}{spec.name}" for spec in specs])


@given(keyed())
def test_keys_come_back_in_each_form(drawn: tuple[list[ColumnSpec], list[Any]]) -> None:
    specs, keys = drawn
    rows = batch(specs, keys)
    raw = raw_keys(rows, "key:", specs)
    stored = KeyRows(specs)
    stored.extend(raw)  # type: ignore[arg-type]
    view, ids = stored.view(), np.arange(len(keys))
    stored.extend(raw)  # type: ignore[arg-type]
    assert view.public(ids) == keys
    assert view.raw(ids) == raw
    assert view.public(ids[::-1]) == keys[::-1]
    assert [column.to_pylist() for column in view.to_arrow(ids)] == [
        rows.column(number).to_pylist() for number in range(len(specs))
    ]
    assert len(stored) == 2 * len(keys)


@given(keyed())
def test_different_keys_stay_different(drawn: tuple[list[ColumnSpec], list[Any]]) -> None:
    specs, keys = drawn
    assert len(set(raw_keys(batch(specs, keys), "key:", specs))) == len(set(keys))


def test_a_key_with_a_missing_part_is_none() -> None:
    specs = [ColumnSpec("a", "int4"), ColumnSpec("b", "text")]
    rows = batch(specs, [(1, "x"), (None, "x"), (1, None)], "old:")
    assert raw_keys(rows, "old:", specs) == [(1, "x"), None, None]
    assert raw_keys(batch(specs[:1], [None, 3], "old:"), "old:", specs[:1]) == [None, 3]
