"""Framing and requests: any bytes, split anywhere, are messages or one SqlError."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.sql.errors import SqlError
from server.sql.wire import requests
from server.sql.wire.framing import SMALL_BYTES, STARTUP_BYTES, Inbox
from server.sql.wire.requests import CancelRequest, EncryptionRequest, StartupMessage

MAX_BYTES = 100_000
KINDS = b"QPBDECHSXFdcfp"


def _inbox() -> Inbox:
    inbox = Inbox(MAX_BYTES)
    inbox.logged_in = True
    return inbox


def _message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + struct.pack("!i", len(body) + 4) + body


@st.composite
def pieces(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Split bytes at drawn places."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=20)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _read(inbox: Inbox, parts: list[bytes]) -> tuple[list[tuple[int, bytes]], str]:
    """Return the messages read, and the SQLSTATE that ended it, if any."""
    found = []
    try:
        for part in parts:
            inbox.feed(part)
            while (message := inbox.message()) is not None:
                found.append(message)
    except SqlError as error:
        return found, error.sqlstate if error.fatal else "not fatal"
    return found, ""


messages = st.lists(st.tuples(st.sampled_from(KINDS), st.binary(max_size=200)), max_size=10)


@given(st.data(), messages)
def test_however_the_bytes_are_split_the_messages_are_the_same(
    data: st.DataObject, sent: list[tuple[int, bytes]]
) -> None:
    stream = b"".join(_message(kind, body) for kind, body in sent)
    inbox = _inbox()
    assert _read(inbox, data.draw(pieces(stream))) == (sent, "")
    assert len(inbox) == 0


@given(st.data(), st.binary(max_size=300))
def test_any_bytes_are_messages_or_one_error_whatever_the_split(
    data: st.DataObject, noise: bytes
) -> None:
    whole = _read(_inbox(), [noise])
    assert _read(_inbox(), data.draw(pieces(noise))) == whole
    stranger = Inbox(MAX_BYTES)
    assert _read(stranger, data.draw(pieces(noise)))[1] in ("", "08P01", "54000")


@given(st.data(), st.binary(max_size=STARTUP_BYTES // 50))
def test_startup_packets_may_be_split_too(data: st.DataObject, body: bytes) -> None:
    packet = struct.pack("!i", len(body) + 8) + b"\0\3\0\0" + body
    inbox = Inbox(MAX_BYTES)
    found = []
    for part in data.draw(pieces(packet + packet)):
        inbox.feed(part)
        while (one := inbox.startup_packet()) is not None:
            found.append(one)
    assert found == [packet[4:], packet[4:]]


@pytest.mark.parametrize(
    ("kind", "size", "logged_in", "code"),
    [
        (b"Q", MAX_BYTES + 1, True, "54000"),
        (b"B", 2**31 - 8, True, "54000"),
        (b"S", SMALL_BYTES + 1, True, "54000"),
        (b"p", STARTUP_BYTES + 1, False, "54000"),
        (b"Q", MAX_BYTES, False, "54000"),
        (b"Q", -1, True, "08P01"),
        (b"Q", -(2**31), True, "54000"),  # read without a sign it is very long
        (b"z", 0, True, "08P01"),
        (b"G", 0, True, "08P01"),
    ],
)
def test_a_message_that_cannot_be_is_refused_by_its_header(
    kind: bytes, size: int, code: str, *, logged_in: bool
) -> None:
    inbox = Inbox(MAX_BYTES)
    inbox.logged_in = logged_in
    inbox.feed(kind + struct.pack("!q", size + 4)[4:])
    with pytest.raises(SqlError) as caught:
        inbox.message()
    assert (caught.value.sqlstate, caught.value.fatal) == (code, True)


def test_the_longest_message_is_taken() -> None:
    for kind, size in [(b"Q"[0], MAX_BYTES), (b"S"[0], SMALL_BYTES - 5)]:
        assert _read(_inbox(), [_message(kind, b"x" * size)]) == ([(kind, b"x" * size)], "")


@pytest.mark.parametrize("head", [b"\x16\3\1\2", b"GET ", b"\0\0\0\4", b"\0\0\0\7", b"\xff" * 4])
def test_what_is_no_startup_packet_is_refused_by_its_length(head: bytes) -> None:
    inbox = Inbox(MAX_BYTES)
    inbox.feed(head)
    with pytest.raises(SqlError, match="invalid length of startup packet"):
        inbox.startup_packet()


def _code(read: Callable[[bytes], object], data: bytes) -> str:
    """Return the SQLSTATE of reading ``data``, "" for none."""
    try:
        read(data)
    except SqlError as error:
        return error.sqlstate
    return ""


READERS: list[Callable[[bytes], object]] = [
    requests.query,
    requests.parse,
    requests.bind,
    requests.target,
    requests.execute,
    requests.sasl_initial,
]


@given(st.binary(max_size=200), st.sampled_from(READERS))
def test_any_body_is_read_or_an_error_of_the_client(
    body: bytes, read: Callable[[bytes], object]
) -> None:
    assert _code(read, body) in ("", "08P01", "22021", "22023")


@given(st.binary(max_size=200))
def test_any_packet_is_read_or_an_error_of_the_client(body: bytes) -> None:
    for code in (b"", b"\0\3\0\0", b"\x04\xd2\x16\x2e"):
        packet = code + body + b"\0" * 4
        assert _code(requests.startup, packet) in ("", "08P01", "22021")


values = st.lists(st.none() | st.binary(max_size=50), max_size=6)


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=9), values)
def test_bind_is_read_as_it_was_written(name: str, sent: list[bytes | None]) -> None:
    body = name.encode() + b"\0stmt\0" + struct.pack("!HHH", 1, 1, len(sent))
    for value in sent:
        body += b"\xff" * 4 if value is None else struct.pack("!i", len(value)) + value
    body += struct.pack("!HHH", 2, 0, 1)
    read = requests.bind(body)
    assert (read.portal, read.statement, read.values) == (name, "stmt", sent)
    assert (read.formats, read.result_formats) == ((1,), (0, 1))
    for end in range(len(body)):
        with pytest.raises(SqlError):
            requests.bind(body[:end])


def test_startup_packets_say_what_they_are() -> None:
    assert requests.startup(b"\x04\xd2\x16\x2f") == EncryptionRequest(gssapi=False)
    assert requests.startup(b"\x04\xd2\x16\x30") == EncryptionRequest(gssapi=True)
    assert requests.startup(b"\x04\xd2\x16\x2e\0\0\0\7key!") == CancelRequest(7, b"key!")
    packet = b"\0\3\0\2user\0me\0_pq_.x\0on\0\0"
    said = requests.startup(packet)
    assert said == StartupMessage(3, 2, {"user": "me", "_pq_.x": "on"})
    assert isinstance(said, StartupMessage)
    assert said.options == ["_pq_.x"]


@pytest.mark.parametrize(
    "packet", [b"\0\3\0\0", b"\0\3\0\0user\0", b"\0\3\0\0user\0me\0", b"\0\3\0\0a\0b\0c\0\0"]
)
def test_a_startup_message_without_its_end_is_refused(packet: bytes) -> None:
    with pytest.raises(SqlError, match="invalid startup packet layout"):
        requests.startup(packet)


@pytest.mark.parametrize("size", [0, 3, 257])
def test_a_cancel_key_has_a_length_that_keys_have(size: int) -> None:
    with pytest.raises(SqlError):
        requests.startup(b"\x04\xd2\x16\x2e\0\0\0\7" + b"k" * size)


def test_formats_are_none_one_for_all_or_one_each() -> None:
    assert requests.spread((), 2) == (0, 0)
    assert requests.spread((1,), 3) == (1, 1, 1)
    assert requests.spread((1, 0), 2) == (1, 0)
    with pytest.raises(SqlError, match="2 formats for 3 values"):
        requests.spread((1, 0), 3)
