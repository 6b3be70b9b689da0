"""Few row messages are walked, many are scanned: both are one decoder, also of broken messages."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pgsync.errors import DecodeError, ResyncNeeded
from pgsync.layout import layout_of
from pgsync.row_messages import RowMessages, decode_row_messages
from pgsync.values import RowDecoder
from tests.pgoutput_writer import message_bytes
from tests.replication_model import ORDERS, SPEC, changes, relation, vector_type

ORDER = ORDERS[0]
LAYOUT = layout_of(SPEC, relation(ORDER), {vector_type().type_oid: vector_type().name})
DECODER = RowDecoder(SPEC)

#: Tag and relation id, by which the assembler chooses its rows.
_HEAD = 5

payloads = (
    changes.filter(lambda change: change.kind != "other")
    .map(lambda change: message_bytes(change.message(ORDER, None)))
    .filter(lambda payload: payload[0] in b"IUDT")
)


def _messages(parts: list[bytes]) -> RowMessages:
    bounds = np.cumsum([0, *map(len, parts)])
    numbers = np.arange(len(parts))
    return RowMessages(
        LAYOUT,
        b"".join(parts),
        bounds[:-1],
        bounds[1:],
        numbers.astype(np.uint64),
        numbers.astype(np.uint32),
    )


def _outcome(parts: list[bytes], few_rows: int) -> Any:
    """Return the rows, or the kind of error."""
    try:
        rows = decode_row_messages(DECODER, _messages(parts), few_rows=few_rows)
    except (DecodeError, ResyncNeeded) as error:
        return type(error)
    rows.validate(full=True)
    return rows


@given(st.lists(payloads, min_size=1, max_size=6))
@settings(deadline=None)
def test_walked_and_scanned_rows_are_the_same(parts: list[bytes]) -> None:
    assert _outcome(parts, few_rows=len(parts)) == _outcome(parts, few_rows=0)


@given(st.lists(payloads, min_size=1, max_size=3), st.data())
@settings(max_examples=300, deadline=None)
def test_what_the_walk_refuses_the_scan_refuses(parts: list[bytes], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(parts) - 1))
    broken = bytearray(parts[at])
    for _ in range(data.draw(st.integers(1, 3))):
        if len(broken) > _HEAD:
            place = data.draw(st.integers(_HEAD, len(broken) - 1))
            broken[place] = data.draw(st.sampled_from(b"bnutKON\0\1\xff"))
    cut = data.draw(st.integers(_HEAD, len(broken)))
    parts[at] = bytes(broken[: data.draw(st.sampled_from([cut, len(broken)]))])
    assert _outcome(parts, few_rows=len(parts)) == _outcome(parts, few_rows=0)
