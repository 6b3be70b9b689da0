"""API keys: who may call what.

Two scopes: ``read`` searches and looks, ``admin`` does everything. Only SHA-256 digests of the keys
are kept, and each presented key is compared with all of them in constant time, so that the clock
does not tell a key. A key never appears in a log line or an error.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Iterator
from enum import IntEnum

from .settings import Settings


class Scope(IntEnum):
    """What a caller may do; a greater scope includes the lesser ones."""

    NONE = 0
    READ = 1
    ADMIN = 2


class NoKey(Exception):
    """The call needs an API key and came with none, or with one that is not known."""


class KeyTooWeak(Exception):
    """The API key is known, but its scope does not include the call."""


class UnsafeExposure(Exception):
    """The server would be open to others than this machine; the message says what to set."""


def api_keys(settings: Settings) -> list[tuple[str, Scope]]:
    """Return the keys of section ``auth`` in the clear, for what makes digests of them."""
    auth = settings.auth
    read = [(key.get_secret_value(), Scope.READ) for key in auth.read_keys]
    return read + [(key.get_secret_value(), Scope.ADMIN) for key in auth.admin_keys]


class Keyring:
    """The configured keys. Without any, every caller is an administrator."""

    def __init__(self, read_keys: Iterable[str] = (), admin_keys: Iterable[str] = ()) -> None:
        self._digests = [(_digest(key), Scope.READ) for key in read_keys]
        self._digests += [(_digest(key), Scope.ADMIN) for key in admin_keys]

    @classmethod
    def from_settings(cls, settings: Settings) -> Keyring:
        """Take the keys of section ``auth``."""
        keys = api_keys(settings)
        return cls(
            (key for key, scope in keys if scope is Scope.READ),
            (key for key, scope in keys if scope is Scope.ADMIN),
        )

    @property
    def is_open(self) -> bool:
        """Whether no key is configured."""
        return not self._digests

    def scope_of(self, presented: str | None) -> Scope:
        """Return what the bearer of ``presented`` may do. Looks at every key, whatever matches."""
        if self.is_open:
            return Scope.ADMIN
        found = Scope.NONE
        digest = _digest(presented or "")
        for known, scope in self._digests:
            if hmac.compare_digest(digest, known) and presented:
                found = max(found, scope)
        return found

    def require(self, presented: str | None, needed: Scope) -> None:
        """Raise NoKey or KeyTooWeak unless the bearer of ``presented`` has ``needed``."""
        scope = self.scope_of(presented)
        if scope is Scope.NONE and needed is not Scope.NONE:
            raise NoKey("send an API key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
        if scope < needed:
            raise KeyTooWeak("this call needs an admin key; the key that was sent may only read")


def refuse_unsafe_exposure(settings: Settings) -> None:
    """Raise UnsafeExposure where the settings would leave the server open to a network."""
    auth = settings.auth
    if auth.read_keys and not auth.admin_keys:
        raise UnsafeExposure(
            "auth.read_keys is set but auth.admin_keys is not: nobody could send changes; "
            "set auth.admin_keys too"
        )
    if auth.admin_keys:
        return
    for key, host in _addresses(settings):
        if not is_loopback(host):
            raise UnsafeExposure(
                f"{key} is {host}, which others can reach, and no API key is set: "
                "set auth.admin_keys (and auth.read_keys), or listen on 127.0.0.1"
                + (" or a Unix socket" if key == "server.host" else "")
            )


def _addresses(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield each address that is listened on, with the setting that names it."""
    server, sql = settings.server, settings.sql
    if server.tcp:
        yield "server.host", server.host
    if sql.enabled and sql.host is not None:
        yield "sql.host", sql.host


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
