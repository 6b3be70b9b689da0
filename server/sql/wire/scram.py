"""SCRAM-SHA-256: a client proves that it has one of the API keys, without sending it.

Source: RFC 5802, RFC 7677, and Postgres' documentation, "SASL Authentication". Any user name is
taken: who one is, the key alone says. So all keys share one salt, drawn anew by each process, and
a proof is compared with every key, whatever matches: the time it takes tells nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import stringprep
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from server.auth import Scope
from server.sql.errors import SqlError

MECHANISM, BOUND_MECHANISM = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"

#: Rounds of PBKDF2: RFC 7677's least and Postgres' default. API keys are random, not words.
ITERATIONS = 4096
_SALT_BYTES, _NONCE_BYTES = 16, 18
_HASH = "sha256"


@dataclass(frozen=True, slots=True)
class _Verifier:
    """What the server keeps of a key: enough to check a proof, not to make one."""

    stored_key: bytes
    server_key: bytes
    scope: Scope


class Verifiers:
    """The configured keys. Made once, as each takes some milliseconds. Tests give the salt."""

    def __init__(self, keys: Iterable[tuple[str, Scope]], salt: bytes | None = None) -> None:
        self.salt = salt or secrets.token_bytes(_SALT_BYTES)
        self._all = [_verifier(key, scope, self.salt) for key, scope in keys]

    @property
    def is_open(self) -> bool:
        """Whether no key is configured: then no password is asked for."""
        return not self._all

    def check(self, signed: bytes, proof: bytes) -> tuple[Scope, bytes]:
        """Return the scope of the key that ``proof`` was made with, and the server's signature.

        ``signed`` is RFC 5802's AuthMessage. Scope.NONE: no key matches.
        """
        scope, server_key = Scope.NONE, self.salt
        for known in self._all:
            mask = hmac.digest(known.stored_key, signed, _HASH)
            client_key = _xor(mask, proof)
            digest = hashlib.sha256(client_key).digest()
            if hmac.compare_digest(digest, known.stored_key) and known.scope > scope:
                scope, server_key = known.scope, known.server_key
        return scope, hmac.digest(server_key, signed, _HASH)


class Exchange:
    """One login: the client's first message, the server's answer, the proof, the signature.

    ``binding``: RFC 5929's tls-server-end-point of this connection, None without TLS or where the
    certificate has none. All raise SqlError.
    """

    def __init__(self, verifiers: Verifiers, binding: bytes | None = None) -> None:
        self._verifiers, self._binding = verifiers, binding
        self.mechanisms = (BOUND_MECHANISM, MECHANISM) if binding else (MECHANISM,)
        self._header = self._client_first = self._server_first = b""
        self._nonce = b""

    def first(self, mechanism: str, data: bytes, server_nonce: bytes | None = None) -> bytes:
        """Read client-first-message; return server-first-message. Tests give the nonce."""
        if mechanism not in self.mechanisms:
            raise _violation("the client chose a SASL mechanism that was not offered")
        header, bare = _split_header(data)
        self._check_header(header, bound=mechanism == BOUND_MECHANISM)
        client_nonce = _nonce_of(bare)
        ours = server_nonce or base64.b64encode(secrets.token_bytes(_NONCE_BYTES))
        self._header, self._client_first, self._nonce = header, bare, client_nonce + ours
        salt = base64.b64encode(self._verifiers.salt)
        self._server_first = b"r=%s,s=%s,i=%d" % (self._nonce, salt, ITERATIONS)
        return self._server_first

    def final(self, data: bytes) -> tuple[Scope, bytes]:
        """Read client-final-message; return the key's scope and server-final-message.

        Raise SqlError 28P01 when no key matches.
        """
        unproved, separator, encoded = data.rpartition(b",p=")
        fields = unproved.split(b",")
        if not separator or len(fields) < 2:
            raise _violation("malformed SCRAM message")
        binding = self._header + (self._binding or b"" if self._header[:1] == b"p" else b"")
        if fields[0] != b"c=" + base64.b64encode(binding):
            raise _violation("SCRAM channel binding check failed")
        if not hmac.compare_digest(fields[1], b"r=" + self._nonce):
            raise _violation("the SCRAM nonce is not the one that was agreed on")
        signed = b",".join((self._client_first, self._server_first, unproved))
        scope, signature = self._verifiers.check(signed, _proof(encoded))
        if scope is Scope.NONE:
            raise wrong_password()
        return scope, b"v=" + base64.b64encode(signature)

    def _check_header(self, header: bytes, *, bound: bool) -> None:
        """Check GS2's channel binding flag against the mechanism (RFC 5802, section 6)."""
        flag = header[:1]
        if bound != (flag == b"p"):
            raise _violation("the SCRAM channel binding flag does not fit the mechanism")
        if bound and not header.startswith(b"p=tls-server-end-point,"):
            raise _violation("only the channel binding type tls-server-end-point is known")
        if flag == b"y" and self._binding:
            # Somebody in between took our offer out of the list.
            raise SqlError("28000", "SCRAM channel binding was offered and not used", fatal=True)


def wrong_password() -> SqlError:
    """Return the one error of a login that failed, whatever was wrong."""
    hint = "the password is an API key of the server"
    return SqlError("28P01", "password authentication failed", hint=hint, fatal=True)


def _verifier(key: str, scope: Scope, salt: bytes) -> _Verifier:
    salted = hashlib.pbkdf2_hmac(_HASH, saslprep(key).encode(), salt, ITERATIONS)
    client_key = hmac.digest(salted, b"Client Key", _HASH)
    server_key = hmac.digest(salted, b"Server Key", _HASH)
    return _Verifier(hashlib.sha256(client_key).digest(), server_key, scope)


def saslprep(password: str) -> str:
    """Return the form of a password that clients hash (RFC 4013); as it is where that fails."""
    if password.isascii():
        return password
    spaced = [" " if stringprep.in_table_c12(c) else c for c in password]
    kept = "".join([c for c in spaced if not stringprep.in_table_b1(c)])
    normal = unicodedata.normalize("NFKC", kept)
    return password if not normal or any(map(_is_prohibited, normal)) else normal


def _is_prohibited(character: str) -> bool:
    """Whether it is of RFC 4013's tables of prohibited or unassigned characters."""
    tables = (
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
        stringprep.in_table_a1,
    )
    return any(table(character) for table in tables)


def _split_header(data: bytes) -> tuple[bytes, bytes]:
    """Return GS2's header with its last comma, and client-first-message-bare."""
    flag, first, rest = data.partition(b",")
    authzid, second, bare = rest.partition(b",")
    known = flag in (b"n", b"y") or flag.startswith(b"p=")
    if not (known and first and second):
        raise _violation("malformed SCRAM message")
    if authzid:
        raise SqlError("0A000", "SCRAM authorization identities are not supported", fatal=True)
    return flag + b",,", bare


def _nonce_of(bare: bytes) -> bytes:
    """Return the client's nonce out of ``n=USER,r=NONCE``."""
    fields = bare.split(b",")
    if len(fields) < 2 or fields[0][:2] != b"n=" or fields[1][:2] != b"r=":
        raise _violation("malformed SCRAM message")
    nonce = fields[1][2:]
    if not nonce or not all(0x21 <= byte <= 0x7E for byte in nonce):
        raise _violation("malformed SCRAM message")
    return nonce


def _proof(encoded: bytes) -> bytes:
    try:
        proof = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise _violation("malformed SCRAM message") from error
    if len(proof) != hashlib.sha256().digest_size:
        raise _violation("malformed SCRAM message")
    return proof


def _xor(left: bytes, right: bytes) -> bytes:
    size = len(left)
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(size, "big")


def _violation(message: str) -> SqlError:
    return SqlError("08P01", message, fatal=True)
