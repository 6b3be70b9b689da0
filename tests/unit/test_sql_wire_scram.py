"""SCRAM-SHA-256: a client that follows the RFC gets in with a key, and with nothing else."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.auth import Scope
from server.sql.errors import SqlError
from server.sql.wire.doorkeeper import Doorkeeper
from server.sql.wire.scram import (
    BOUND_MECHANISM,
    MECHANISM,
    Exchange,
    Verifiers,
    saslprep,
)

KEYS = [("reader", Scope.READ), ("boss", Scope.ADMIN), ("naïve", Scope.READ)]
#: Made once: each key takes milliseconds.
VERIFIERS = Verifiers(KEYS)
BINDING = b"certificate hash"


def _answer(password: str, client_first_bare: bytes, server_first: bytes, header: bytes) -> bytes:
    """Return client-final-message, by RFC 5802, section 3."""
    fields = dict(part.split(b"=", 1) for part in server_first.split(b","))
    salt, rounds = base64.b64decode(fields[b"s"]), int(fields[b"i"])
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    unproved = b"c=" + base64.b64encode(header) + b",r=" + fields[b"r"]
    signed = b",".join((client_first_bare, server_first, unproved))
    signature = hmac.digest(stored_key, signed, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return unproved + b",p=" + base64.b64encode(proof)


def _log_in(password: str, *, header: bytes = b"n,,", binding: bytes | None = None) -> Scope:
    exchange = Exchange(VERIFIERS, binding)
    bound = header.startswith(b"p")
    bare = b"n=,r=fyko+d2lbbFgONRv9qkxdawL"
    first = exchange.first(BOUND_MECHANISM if bound else MECHANISM, header + bare)
    told = header + (binding or b"") if bound else header
    scope, final = exchange.final(_answer(password, bare, first, told))
    assert final.startswith(b"v=")
    return scope


@pytest.mark.parametrize(("password", "scope"), KEYS)
def test_each_key_opens_its_scope(password: str, scope: Scope) -> None:
    assert _log_in(password) is scope


@pytest.mark.parametrize("password", ["", "Boss", "boss ", "bos", "nai\u0308ve "])
def test_no_other_password_opens_anything(password: str) -> None:
    with pytest.raises(SqlError, match="password authentication failed") as caught:
        _log_in(password)
    assert (caught.value.sqlstate, caught.value.fatal) == ("28P01", True)


def test_the_example_of_the_rfc_is_answered_as_there() -> None:
    """RFC 7677, section 3."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    exchange = Exchange(Verifiers([("pencil", Scope.READ)], salt))
    first = exchange.first(
        MECHANISM, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    assert first == (
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    scope, final = exchange.final(
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert (scope, final) == (Scope.READ, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


def test_channel_binding_is_offered_and_checked() -> None:
    assert Exchange(VERIFIERS, BINDING).mechanisms == (BOUND_MECHANISM, MECHANISM)
    assert Exchange(VERIFIERS).mechanisms == (MECHANISM,)
    header = b"p=tls-server-end-point,,"
    assert _log_in("boss", header=header, binding=BINDING) is Scope.ADMIN
    assert _log_in("boss", header=b"n,,", binding=BINDING) is Scope.ADMIN
    assert _log_in("boss", header=b"y,,") is Scope.ADMIN


def test_a_binding_to_another_certificate_is_refused() -> None:
    exchange = Exchange(VERIFIERS, BINDING)
    header, bare = b"p=tls-server-end-point,,", b"n=,r=abc"
    first = exchange.first(BOUND_MECHANISM, header + bare)
    with pytest.raises(SqlError, match="channel binding check failed"):
        exchange.final(_answer("boss", bare, first, header + b"somebody else's"))


def test_a_downgrade_is_noticed() -> None:
    """The client can bind, and was told that we cannot (RFC 5802, section 6)."""
    with pytest.raises(SqlError, match="was offered and not used"):
        Exchange(VERIFIERS, BINDING).first(MECHANISM, b"y,,n=,r=abc")


@pytest.mark.parametrize(
    ("mechanism", "data"),
    [
        ("SCRAM-SHA-1", b"n,,n=,r=abc"),
        (BOUND_MECHANISM, b"p=tls-server-end-point,,n=,r=abc"),
        (MECHANISM, b"p=tls-server-end-point,,n=,r=abc"),
        (MECHANISM, b""),
        (MECHANISM, b"n,,"),
        (MECHANISM, b"n,,n="),
        (MECHANISM, b"n,,n=,r="),
        (MECHANISM, b"n,,r=abc,n="),
        (MECHANISM, b"n,,m=ext,n=,r=abc"),
        (MECHANISM, b"x,,n=,r=abc"),
        (MECHANISM, b"n,a=me,n=,r=abc"),
        (MECHANISM, b"n,,n=,r=a\xffc"),
    ],
)
def test_a_first_message_that_is_none_is_refused(mechanism: str, data: bytes) -> None:
    with pytest.raises(SqlError) as caught:
        Exchange(VERIFIERS).first(mechanism, data)
    assert caught.value.fatal


@given(st.binary(max_size=120))
def test_any_first_and_final_message_is_taken_or_refused(noise: bytes) -> None:
    for data in (noise, b"n,,n=,r=" + noise):
        exchange = Exchange(VERIFIERS)
        try:
            first = exchange.first(MECHANISM, data)
        except SqlError:
            continue
        nonce = first.split(b",")[0]
        for final in (noise, b"c=biws," + nonce + b",p=" + noise, b"c=biws," + nonce):
            with pytest.raises(SqlError):
                exchange.final(final)


def test_the_nonce_must_be_the_one_agreed_on() -> None:
    exchange = Exchange(VERIFIERS)
    bare = b"n=,r=abc"
    first = exchange.first(MECHANISM, b"n,," + bare)
    with pytest.raises(SqlError, match="nonce"):
        exchange.final(_answer("boss", bare, first.replace(b"r=abc", b"r=abd"), b"n,,"))


def test_an_answer_cannot_be_used_twice() -> None:
    bare = b"n=,r=abc"
    exchange = Exchange(VERIFIERS)
    answer = _answer("boss", bare, exchange.first(MECHANISM, b"n,," + bare), b"n,,")
    again = Exchange(VERIFIERS)
    again.first(MECHANISM, b"n,," + bare)
    with pytest.raises(SqlError):
        again.final(answer)


def test_passwords_are_prepared_as_clients_prepare_them() -> None:
    """RFC 4013, section 3: its examples."""
    assert saslprep("I\u00adX") == "IX"
    assert saslprep("\u00aa") == "a"
    assert saslprep("\u2168") == "IX"
    assert saslprep("\u00a0x\u00e9") == " x\u00e9"
    assert saslprep("\u0007\u00e9") == "\u0007\u00e9"  # prohibited: taken as it is
    assert saslprep("plain ASCII") == "plain ASCII"


def test_failures_of_an_address_are_answered_later_and_later_until_it_rests() -> None:
    keeper = Doorkeeper()
    delays = [keeper.failed("192.0.2.1", float(second)) for second in range(10)]
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert max(delays) == delays[-1] == 5.0
    assert keeper.failed("192.0.2.2", 9.0) == 0.1
    assert keeper.failed("192.0.2.1", 100.0) == 0.1
    # All addresses of one IPv6 network are one.
    assert keeper.failed("2001:db8::1", 0.0) == 0.1
    assert keeper.failed("2001:db8::2%eth0", 0.0) == 0.2
    assert keeper.failed("local", 0.0) == 0.1


def test_addresses_without_end_make_no_memory_without_end() -> None:
    keeper = Doorkeeper()
    for number in range(20_000):
        keeper.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(keeper) == 10_000
