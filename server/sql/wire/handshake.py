"""From the first byte to a login: encryption, version, password.

Source: Postgres documentation, "Start-up" and "SASL Authentication". Nobody learns before the proof
whether a user, a database or an index exists. Every error ends the connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol

from server.auth import Scope
from server.sql.errors import SqlError
from server.sql.variables import SERVER_VERSION

from . import messages, requests
from .cancelling import LONG_KEY_BYTES, SHORT_KEY_BYTES
from .framing import protocol_violation
from .requests import CancelRequest, EncryptionRequest, StartupMessage
from .scram import Exchange, Verifiers
from .stream import Stream

#: Newest minor version of protocol 3 that we speak: Postgres 18's.
NEWEST_MINOR = 2

#: What clients are told beside the settings that a session reports: these do not change.
PARAMETERS: Mapping[str, str] = {
    "server_version": f"{SERVER_VERSION} (Vecmirror {version('vecmirror')})",
    "server_encoding": "UTF8",
    "integer_datetimes": "on",
    "in_hot_standby": "off",
    "is_superuser": "off",
}


class Entrance(Stream, Protocol):
    """A connection before its login."""

    async def startup_packet(self) -> bytes:
        """Return the next packet without a kind; raise ConnectionLost and SqlError."""
        ...

    @property
    def offers_tls(self) -> bool:
        """Whether the connection can be encrypted, and is not yet."""
        ...

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection is encrypted."""
        ...

    async def start_tls(self) -> None:
        """Encrypt the connection; the client has been told so. Raise ConnectionLost."""
        ...

    async def reply(self, byte: bytes) -> None:
        """Send the answer to a request for encryption, which is no message."""
        ...


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a client said of itself, its version agreed on."""

    minor: int
    parameters: Mapping[str, str]

    @property
    def key_bytes(self) -> int:
        """Length of the cancel key that it understands."""
        return LONG_KEY_BYTES if self.minor >= 2 else SHORT_KEY_BYTES


async def greet(entrance: Entrance, *, require_tls: bool) -> Greeting | CancelRequest:
    """Read up to the startup message or a cancel request; answer requests for encryption."""
    asked = {True: False, False: False}
    while True:
        request = requests.startup(await entrance.startup_packet())
        if isinstance(request, EncryptionRequest):
            if asked[request.gssapi] or entrance.is_encrypted:
                raise protocol_violation("encryption was asked for twice")
            asked[request.gssapi] = True
            await _answer_encryption(entrance, request)
        elif isinstance(request, CancelRequest):
            return request
        else:
            greeting = _agree(entrance, request)
            if require_tls and not entrance.is_encrypted:
                hint = "connect with sslmode=require or better"
                raise SqlError("28000", "this server asks for TLS", hint=hint, fatal=True)
            return greeting


async def _answer_encryption(entrance: Entrance, request: EncryptionRequest) -> None:
    if request.gssapi or not entrance.offers_tls:
        await entrance.reply(b"N")
    else:
        await entrance.reply(b"S")
        await entrance.start_tls()


def _agree(entrance: Entrance, request: StartupMessage) -> Greeting:
    """Agree on a version; options that we do not know are named to the client."""
    if request.major != 3:
        raise SqlError(
            "0A000",
            f"unsupported frontend protocol {request.major}.{request.minor}: "
            f"server supports 3.0 to 3.{NEWEST_MINOR}",
            fatal=True,
        )
    minor = min(request.minor, NEWEST_MINOR)
    if request.minor > NEWEST_MINOR or request.options:
        offer = messages.negotiate_protocol_version(3 << 16 | minor, request.options)
        entrance.write(offer)
    parameters = {k: v for k, v in request.parameters.items() if not k.startswith("_pq_.")}
    if not parameters.get("user"):
        raise SqlError("28000", "no PostgreSQL user name specified in startup packet", fatal=True)
    if parameters.get("replication", "false").lower() not in ("false", "off", "no", "0"):
        raise SqlError("0A000", "this server has no replication to offer", fatal=True)
    return Greeting(minor, parameters)


async def authenticate(entrance: Entrance, verifiers: Verifiers, binding: bytes | None) -> Scope:
    """Ask for a password where there are keys; return what its bearer may do.

    ``binding``: tls-server-end-point of an encrypted connection. Raise SqlError 28P01.
    """
    if verifiers.is_open:
        return Scope.ADMIN
    exchange = Exchange(verifiers, binding)
    entrance.write(messages.sasl(exchange.mechanisms))
    mechanism, data = requests.sasl_initial(await _password_message(entrance))
    entrance.write(messages.sasl_continue(exchange.first(mechanism, data)))
    scope, answer = exchange.final(await _password_message(entrance))
    entrance.write(messages.sasl_final(answer))
    return scope


async def _password_message(entrance: Entrance) -> bytes:
    await entrance.flush()
    kind, body = await entrance.message()
    if kind != ord("p"):
        raise protocol_violation(f"expected SASL response, got message type {kind}")
    return body


def welcome(greeting: Greeting, reported: Mapping[str, str], process_id: int, key: bytes) -> bytes:
    """Return what a client gets after its login, up to where it may ask something.

    ``reported``: the settings of the session as it begins.
    """
    told = {**PARAMETERS, **reported, "session_authorization": greeting.parameters["user"]}
    statuses = [messages.parameter_status(name, value) for name, value in told.items()]
    key_data = messages.backend_key_data(process_id, key)
    return b"".join((messages.AUTHENTICATION_OK, *statuses, key_data))
