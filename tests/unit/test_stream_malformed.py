"""Row messages that Postgres would not write: only DecodeError and ResyncNeeded come of them."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgsync import messages as m
from pgsync.errors import DecodeError, ResyncNeeded
from pgsync.stream import ChangeAssembler
from tests.pgoutput_writer import message_bytes
from tests.replication_model import (
    ORDERS,
    SPEC,
    Change,
    Sent,
    changes,
    relation,
    replications,
    vector_type,
)

ORDER = ORDERS[0]


def _take_one(payload: bytes) -> list[dict[str, object]]:
    """Return the rows of a transaction with this one message of the table."""
    assembler = ChangeAssembler(SPEC, epoch=1, system_id="7", start_lsn=1)
    for message in (m.Begin(100, 0, 5), vector_type(), relation(ORDER)):
        assembler.feed(0, message_bytes(message))
    assembler.feed(0, payload)
    assembler.feed(0, message_bytes(m.Commit(100, 108, 0)))
    (batch,) = assembler.take()
    batch.rows.validate(full=True)
    rows: list[dict[str, object]] = batch.rows.to_pylist()
    return rows


@given(changes, st.data())
@settings(deadline=None)
def test_a_row_message_cut_short_or_too_long_raises_decode_error(
    change: Change, data: st.DataObject
) -> None:
    payload = message_bytes(change.message(ORDER, None))
    cut = data.draw(st.integers(0, len(payload) - 1))
    if change.kind == "other" and cut >= 6:
        return  # rows of other tables are not looked into
    with pytest.raises(DecodeError):
        _take_one(payload[:cut])
    if change.kind != "other":
        with pytest.raises(DecodeError):
            _take_one(payload + b"\0")


@given(replications(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_stream_with_changed_bytes_raises_nothing_else(sent: Sent, data: st.DataObject) -> None:
    assembler = ChangeAssembler(SPEC, epoch=1, system_id="7", start_lsn=1, batch_rows=3)
    # One place is past the end: a stream may be empty, and none need be broken.
    broken = data.draw(st.sets(st.integers(0, len(sent.wire)), max_size=3))
    with contextlib.suppress(DecodeError, ResyncNeeded):
        for i, (lsn, payload) in enumerate(sent.wire):
            if payload is not None:
                assembler.feed(lsn, _broken(payload, data) if i in broken else payload)
            for batch in assembler.take():
                batch.rows.validate(full=True)


def _broken(payload: bytes, data: st.DataObject) -> bytes:
    octets = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    return bytes(octets)


_NEW = message_bytes(Change("insert", 1, vector=[1.0, 2.0, 3.0]).message(ORDER, None))
_OLD = message_bytes(Change("delete", 1).message(ORDER, None))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        pytest.param(b"I" + _OLD[1:], "wrong kind of tuple", id="insert with an old row"),
        pytest.param(b"D" + _NEW[1:], "wrong kind of tuple", id="delete with a new row"),
        pytest.param(_NEW[:5] + b"X" + _NEW[6:], "not marked N", id="unknown marker"),
        pytest.param(b"U" + _OLD[1:] + b"X" + _NEW[6:], "not marked N", id="unknown second marker"),
        pytest.param(_NEW[:7] + b"\x04" + _NEW[8:], "exactly 5 columns", id="four columns"),
        pytest.param(_NEW[:8] + b"z" + _NEW[9:], "unknown kind", id="unknown kind of value"),
        pytest.param(_NEW[:8] + b"t" + _NEW[9:], "binary 'true'", id="text form"),
        pytest.param(_NEW[:9] + b"\xff\xff\xff\xff" + _NEW[13:], "negative length", id="4 GiB"),
        pytest.param(_NEW[:-1], "longer or shorter|too early", id="cut"),
        pytest.param(_NEW + b"n", "longer or shorter", id="too long"),
    ],
)
def test_the_error_says_what_is_wrong_with_a_row_message(payload: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        _take_one(payload)


def test_the_examples_are_malformed_only_where_they_say() -> None:
    assert len(_take_one(_NEW)) == len(_take_one(_OLD)) == 1
    assert len(_take_one(b"U" + _OLD[1:] + _NEW[5:])) == 1


def test_one_bad_row_among_many_is_found() -> None:
    rng = np.random.default_rng(0)
    good = [_NEW] * 50
    good[int(rng.integers(50))] = _NEW[:-3]
    assembler = ChangeAssembler(SPEC, epoch=1, system_id="7", start_lsn=1)
    for message in (m.Begin(100, 0, 5), vector_type(), relation(ORDER)):
        assembler.feed(0, message_bytes(message))
    for payload in good:
        assembler.feed(0, payload)
    assembler.feed(0, message_bytes(m.Commit(100, 108, 0)))
    with pytest.raises(DecodeError):
        assembler.take()
