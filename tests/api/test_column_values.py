"""Mirrored values as JSON says them."""

from __future__ import annotations

import datetime as dt
import uuid

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.column_values import column_values
from server.columns import ColumnView

DAY_US = 86_400_000_000


def _view(column_type: str, values: list[int], dtype: str) -> ColumnView:
    return ColumnView(column_type, np.ones(len(values), np.bool_), np.array(values, dtype))


@given(st.datetimes(min_value=dt.datetime(1, 1, 1)))
def test_a_timestamp_is_what_datetime_says(at: dt.datetime) -> None:
    microseconds = (at - dt.datetime(2000, 1, 1)) // dt.timedelta(microseconds=1)
    (text,) = column_values(_view("timestamptz", [microseconds], "<i8"))
    assert dt.datetime.fromisoformat(text) == at.replace(tzinfo=dt.UTC)
    (local,) = column_values(_view("timestamp", [microseconds], "<i8"))
    assert dt.datetime.fromisoformat(local) == at


@pytest.mark.parametrize(
    ("days", "text"),
    [
        (0, "2000-01-01"),
        (-1, "1999-12-31"),
        (2_921_939, "9999-12-31"),
        (2_921_940, "10000-01-01"),
        (-730_119, "0001-01-01"),
        (-730_120, "0001-12-31 BC"),
        (-730_485, "0001-01-01 BC"),
        (-730_486, "0002-12-31 BC"),
        (2**31 - 1, "infinity"),
        (-(2**31), "-infinity"),
    ],
)
def test_a_date_is_what_postgres_says(days: int, text: str) -> None:
    assert column_values(_view("date", [days], "<i4")) == [text]


def test_infinite_timestamps_have_names() -> None:
    values = [2**63 - 1, -(2**63), 8000 * 366 * DAY_US]
    infinity, minus_infinity, far = column_values(_view("timestamptz", values, "<i8"))
    assert (infinity, minus_infinity) == ("infinity", "-infinity")
    assert far.startswith("10")


def test_uuids_and_nulls() -> None:
    ids = [uuid.uuid4() for _ in range(3)]
    raw = np.frombuffer(b"".join(each.bytes for each in ids), "V16")
    view = ColumnView("uuid", np.array([True, False, True]), raw)
    assert view.to_arrow().type == pa.binary(16)
    assert column_values(view) == [str(ids[0]), None, str(ids[2])]
