"""API keys: scopes, headers, and when the server refuses to be open."""

from __future__ import annotations

import pytest

from server.auth import (
    Keyring,
    KeyTooWeak,
    NoKey,
    Scope,
    UnsafeExposure,
    refuse_unsafe_exposure,
)
from server.settings import Settings


def _settings(**sections: object) -> Settings:
    return Settings.model_validate(sections)


def test_without_keys_every_caller_is_an_administrator() -> None:
    assert Keyring().scope_of(None) is Scope.ADMIN


@pytest.mark.parametrize(
    ("presented", "scope"),
    [
        ("r1", Scope.READ),
        ("r2", Scope.READ),
        ("a", Scope.ADMIN),
        *[(unknown, Scope.NONE) for unknown in ("x", "", None, "r1 ", "r")],
    ],
)
def test_a_key_has_the_scope_it_is_listed_under(presented: str | None, scope: Scope) -> None:
    assert Keyring(["r1", "r2"], ["a"]).scope_of(presented) is scope


def test_a_key_in_both_lists_is_an_admin_key() -> None:
    assert Keyring(["k"], ["k"]).scope_of("k") is Scope.ADMIN


def test_require_tells_a_missing_key_from_a_weak_one() -> None:
    keyring = Keyring(["r"], ["a"])
    keyring.require("r", Scope.READ)
    keyring.require("a", Scope.ADMIN)
    with pytest.raises(NoKey):
        keyring.require(None, Scope.READ)
    with pytest.raises(KeyTooWeak):
        keyring.require("r", Scope.ADMIN)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_may_be_open(host: str) -> None:
    refuse_unsafe_exposure(_settings(server={"host": host}))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "db.example.org"])
def test_a_reachable_address_needs_keys(host: str) -> None:
    with pytest.raises(UnsafeExposure, match=r"set auth\.admin_keys"):
        refuse_unsafe_exposure(_settings(server={"host": host}))
    refuse_unsafe_exposure(_settings(server={"host": host}, auth={"admin_keys": "k"}))


def test_a_unix_socket_alone_may_be_open() -> None:
    refuse_unsafe_exposure(_settings(server={"tcp": False, "host": "0.0.0.0", "uds": "/tmp/s"}))


def test_read_keys_without_admin_keys_are_refused() -> None:
    with pytest.raises(UnsafeExposure, match=r"auth\.admin_keys is not"):
        refuse_unsafe_exposure(_settings(auth={"read_keys": "k"}))
