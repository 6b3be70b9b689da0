"""The pgoutput decoder: every message there and back, and nothing but DecodeError for the rest."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgsync import messages as m
from pgsync.errors import DecodeError
from pgsync.pgoutput import decode
from tests.pgoutput_strategies import in_stream, messages
from tests.pgoutput_writer import message_bytes


@given(messages, st.sampled_from([bytes, bytearray, memoryview]))
def test_every_message_survives_the_way_there_and_back(
    message: m.PgOutputMessage, buffer: type
) -> None:
    written = message_bytes(message)
    assert decode(buffer(written), in_stream=in_stream(message)) == message


_ROW = (m.TupleValue("b", b"1"), m.TupleValue("t", b"2"), m.TupleValue("n"), m.TupleValue("u"))
_COLUMNS = (m.RelationColumn("id", 20, -1, True), m.RelationColumn("größe", 23, -1, False))
_ONE_OF_EACH: list[m.PgOutputMessage] = [
    m.Begin(2**64 - 1, -1, 5),
    m.Commit(1, 2, 3),
    m.Origin(1, "elsewhere"),
    m.Relation(1, "", "t", "d", _COLUMNS),
    m.Relation(1, "public", "t", "f", _COLUMNS, xid=9),
    m.Type(16385, "public", "vector"),
    m.Insert(1, _ROW),
    m.Insert(1, _ROW, xid=0),
    m.Update(1, None, None, _ROW),
    m.Update(1, "K", _ROW, _ROW),
    m.Update(1, "O", _ROW, _ROW, xid=7),
    m.Delete(1, "K", _ROW),
    m.Delete(1, "O", ()),
    m.Truncate((1, 2), True, False),
    m.Truncate((), False, True),
    m.Message(True, 1, "prefix", b"content"),
    m.StreamStart(7, True),
    m.StreamStop(),
    m.StreamCommit(7, 1, 2, 3),
    m.StreamAbort(7, 8),
    m.StreamAbort(7, 7, 1, 2),
    m.BeginPrepare(1, 2, 3, 4, "gid"),
    m.Prepare(1, 2, 3, 4, "gid"),
    m.CommitPrepared(1, 2, 3, 4, "gid"),
    m.RollbackPrepared(1, 2, 3, 4, 5, "gid"),
    m.StreamPrepare(1, 2, 3, 4, "gid"),
]


@pytest.mark.parametrize("message", _ONE_OF_EACH, ids=lambda message: type(message).__name__)
def test_one_of_each_survives_too(message: m.PgOutputMessage) -> None:
    assert decode(message_bytes(message), in_stream=in_stream(message)) == message


def test_the_examples_leave_no_kind_of_message_out() -> None:
    assert {type(message) for message in _ONE_OF_EACH} == set(get_args(m.PgOutputMessage))


@given(messages, st.data())
def test_a_message_cut_short_raises_decode_error(
    message: m.PgOutputMessage, data: st.DataObject
) -> None:
    written = message_bytes(message)
    cut = data.draw(st.integers(0, len(written) - 1))
    if isinstance(message, m.StreamAbort) and cut == 9:
        return  # without LSN and time it is the abort of protocols 2 and 3
    with pytest.raises(DecodeError):
        decode(written[:cut], in_stream=in_stream(message))


@given(messages, st.binary(min_size=1, max_size=8))
def test_bytes_after_the_end_raise_decode_error(message: m.PgOutputMessage, more: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(message_bytes(message) + more, in_stream=in_stream(message))


@given(messages, st.data())
def test_changed_bytes_raise_nothing_but_decode_error(
    message: m.PgOutputMessage, data: st.DataObject
) -> None:
    written = bytearray(message_bytes(message))
    for _ in range(data.draw(st.integers(1, 4))):
        written[data.draw(st.integers(0, len(written) - 1))] = data.draw(st.integers(0, 255))
    _decode_or_refuse(bytes(written), data.draw(st.booleans()))


@given(st.binary(max_size=200), st.booleans())
def test_noise_raises_nothing_but_decode_error(noise: bytes, inside: bool) -> None:
    _decode_or_refuse(noise, inside)


def _decode_or_refuse(payload: bytes, inside: bool) -> None:
    with contextlib.suppress(DecodeError):
        assert type(decode(payload, in_stream=inside)) in get_args(m.PgOutputMessage)


_HUGE = struct.pack(">I", 2**32 - 1)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"T" + _HUGE + b"\0", id="truncate of 4 billion relations"),
        pytest.param(b"I\0\0\0\1N\xff\xff", id="row of 65,535 columns"),
        pytest.param(b"I\0\0\0\1N\0\1b" + _HUGE, id="value of 4 GiB"),
        pytest.param(b"R\0\0\0\1s\0t\0d\xff\xff", id="relation of 65,535 columns"),
        pytest.param(b"M\0" + bytes(8) + b"p\0" + _HUGE, id="message of 4 GiB"),
    ],
)
def test_what_is_allocated_is_bounded_by_the_size_of_the_message(payload: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            decode(payload, in_stream=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(
    ("payload", "tag", "reason"),
    [
        (b"", "pgoutput", "tag"),
        (b"Z", "pgoutput", "tag"),
        (b"O" + bytes(8) + b"\xff\0", "Origin", "UTF-8"),
        (b"O" + bytes(8) + b"name", "Origin", "without an end"),
        (b"C\1" + bytes(24), "Commit", "flags"),
        (b"R\0\0\0\1s\0t\0x\0\0", "Relation", "replica identity"),
        (b"I\0\0\0\1O\0\0", "Insert", "not marked N"),
        (b"U\0\0\0\1X\0\0", "Update", "not marked N"),
        (b"U\0\0\0\1K\0\0X\0\0", "Update", "not marked N"),
        (b"D\0\0\0\1N\0\0", "Delete", "neither K nor O"),
        (b"I\0\0\0\1N\0\1z", "Insert", "kind of column value"),
        (b"E\0", "Stream Stop", "1 bytes more"),
        (b"B\0", "Begin", "20 bytes expected"),
    ],
)
def test_the_error_names_the_message_and_what_is_wrong(
    payload: bytes, tag: str, reason: str
) -> None:
    with pytest.raises(DecodeError, match=reason) as caught:
        decode(payload, in_stream=False)
    assert caught.value.tag == tag
