"""Passwords and TLS: who gets in, with libpq on the other side."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

import psycopg
import pytest
import trustme

from server.auth import Scope
from server.settings import Settings
from server.sql.port import CannotServeSql, SqlPort
from server.sql.wire.endpoint import endpoint_binding
from tests.fix_sql_wire import StartWire, WireServer, sql_settings
from tests.sql.raw_client import SSL_REQUEST, RawClient, error_of, kinds, message, query, startup

KEYS = {"read_keys": "reader", "admin_keys": "boss,ключ"}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the settings of a certificate for 127.0.0.1, and its authority's file."""
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("127.0.0.1")
    cert, key, root = folder / "cert.pem", folder / "key.pem", folder / "root.pem"
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(root))
    return {"tls_cert": str(cert), "tls_key": str(key), "root": str(root)}


def _secure(wire_server: StartWire, tls: dict[str, str], **sql: object) -> WireServer:
    section = {"tls_cert": tls["tls_cert"], "tls_key": tls["tls_key"], **sql}
    return wire_server(auth=KEYS, sql=section)


@pytest.mark.parametrize(
    ("password", "scope"),
    [("reader", Scope.READ), ("boss", Scope.ADMIN), ("ключ", Scope.ADMIN)],
)
def test_a_key_is_the_password_of_any_user(
    wire_server: StartWire, password: str, scope: Scope
) -> None:
    server = wire_server(auth=KEYS)
    for user in ("postgres", "somebody"):
        with psycopg.connect(server.dsn(user=user, password=password)) as conn:
            assert conn.pgconn.used_password
        login = server.sessions[-1].login
        assert (login.user, login.database, login.scope) == (user, "vecmirror", scope)
    assert server.count("vecmirror_sql_logins_total", outcome="ok") == 2


def test_an_unknown_user_looks_like_a_wrong_password(wire_server: StartWire) -> None:
    server = wire_server(auth=KEYS)
    said = []
    for user, password in (("boss", "wrong"), ("x", "boss "), ("x", "")):
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(server.dsn(user=user, password=f"'{password}'"))
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "password authentication failed" in said[0]
    assert "boss" not in said[0]
    assert "no password supplied" in said[2]
    assert server.sessions == []


def test_a_right_password_does_not_wait_behind_wrong_ones(wire_server: StartWire) -> None:
    server = wire_server(auth=KEYS)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.dsn(password="wrong"))
    pending = [RawClient(server.port) for _ in range(20)]
    for client in pending:
        client.send(startup())
        assert client.read()[0] == "R"
        first = b"n,,n=,r=abc"
        client.send(message(b"p", b"SCRAM-SHA-256\0" + len(first).to_bytes(4, "big") + first))
        nonce = client.read()[1][4:].split(b",")[0]
        client.send(message(b"p", b"c=biws," + nonce + b",p=" + b"A" * 43 + b"="))
    began_s = time.monotonic()
    with psycopg.connect(server.dsn(password="boss")) as conn:
        conn.execute("SELECT numbers(1)")
    assert time.monotonic() - began_s < 3  # the last of the wrong ones wait five seconds
    assert error_of([pending[0].read()])["C"] == "28P01"
    for client in pending:
        client.close()


def test_without_keys_no_password_is_asked_for(wire_server: StartWire) -> None:
    server = wire_server()
    with psycopg.connect(server.dsn(password="whatever")) as conn:
        assert not conn.pgconn.used_password
    assert server.sessions[0].login.scope is Scope.ADMIN


@pytest.mark.parametrize("fast_loop", [True, False], ids=["uvloop", "asyncio"])
def test_tls_is_verified_and_bound_to_the_login(
    wire_server: StartWire, tls: dict[str, str], *, fast_loop: bool
) -> None:
    section = {"tls_cert": tls["tls_cert"], "tls_key": tls["tls_key"]}
    server = wire_server(fast_loop=fast_loop, auth=KEYS, sql=section)
    dsn = server.dsn(
        password="boss", sslmode="verify-full", sslrootcert=tls["root"], channel_binding="require"
    )
    with psycopg.connect(dsn) as conn:
        assert conn.pgconn.ssl_in_use
        text = "x" * 300_000
        assert conn.execute("SELECT %s::text", [text]).fetchone() == (text,)
        assert len(conn.execute("SELECT words(200, 20000)").fetchall()) == 200
        conn.cancel_safe(timeout=10)
    with psycopg.connect(server.dsn(password="boss", sslmode="disable")) as conn:
        assert not conn.pgconn.ssl_in_use


def test_a_client_without_tls_is_refused_where_it_is_required(
    wire_server: StartWire, tls: dict[str, str]
) -> None:
    server = _secure(wire_server, tls, require_tls=True)
    with pytest.raises(psycopg.OperationalError, match="asks for TLS"):
        psycopg.connect(server.dsn(password="boss", sslmode="disable"))
    with psycopg.connect(server.dsn(password="boss", sslmode="require")):
        pass


def test_what_was_sent_before_tls_is_not_believed(
    wire_server: StartWire, tls: dict[str, str]
) -> None:
    """CVE-2021-23214: somebody in between puts statements before the encryption."""
    server = _secure(wire_server, tls)
    with RawClient(server.port) as client:
        client.send(SSL_REQUEST + startup())
        data = b""
        while chunk := client.socket.recv(4096):
            data += chunk
    assert b"unencrypted data" in data
    assert server.sessions == []


def test_a_client_that_speaks_no_tls_ends_nothing(
    wire_server: StartWire, tls: dict[str, str]
) -> None:
    server = _secure(wire_server, tls)
    for nonsense in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\3\1\0\5nope!"):
        with RawClient(server.port) as client:
            client.send(SSL_REQUEST)
            assert client.read_byte() == b"S"
            client.send(nonsense)
    with psycopg.connect(server.dsn(password="boss", sslmode="require")) as conn:
        assert conn.execute("SELECT numbers(1)").fetchall() == [(0,)]


def test_old_tls_is_not_spoken(wire_server: StartWire, tls: dict[str, str]) -> None:
    server = _secure(wire_server, tls)
    dsn = server.dsn(password="boss", sslmode="require", ssl_max_protocol_version="TLSv1.1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn + " ssl_min_protocol_version=TLSv1")


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path, tls: dict[str, str]) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    for cert, key in ((str(wrong), tls["tls_key"]), (tls["tls_cert"], str(tmp_path / "gone"))):
        settings = sql_settings(sql={"tls_cert": cert, "tls_key": key})
        with pytest.raises(CannotServeSql, match=r"sql\.tls_cert"):
            _port(settings)


def _port(settings: Settings) -> SqlPort:
    from prometheus_client import CollectorRegistry

    with socket.socket() as listener:
        return SqlPort(
            settings, listener, lambda login: pytest.fail(login.user), CollectorRegistry()
        )


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"tls_cert": "cert.pem"}, "tls_cert and tls_key belong together"),
        ({"require_tls": True}, "require_tls needs tls_cert"),
    ],
)
def test_settings_of_tls_belong_together(section: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sql_settings(sql=section)


def test_the_binding_is_the_hash_of_the_certificate(tls: dict[str, str]) -> None:
    import hashlib

    pem = Path(tls["tls_cert"]).read_text()
    der = ssl.PEM_cert_to_DER_cert(pem)
    assert endpoint_binding(pem) == hashlib.sha256(der).digest()
    assert endpoint_binding("nothing") is None


def test_only_a_password_is_taken_while_one_is_asked_for(wire_server: StartWire) -> None:
    server = wire_server(auth=KEYS)
    for data in (query("SELECT numbers(1)"), message(b"p", b"x" * 20_000), message(b"p", b"")):
        with RawClient(server.port) as client:
            client.send(startup())
            assert client.read()[0] == "R"
            told = client.ask(data)
            assert kinds(told) == "E"
            assert error_of(told)["S"] == "FATAL"
    assert server.sessions == []
