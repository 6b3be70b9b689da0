"""The SQL port: where Postgres clients connect. It listens, and ends in order.

At the stop no new clients are taken; connections at rest are told 57P01 at once, running statements
may end within the grace, and are ended with the same error after it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

import structlog
from prometheus_client import CollectorRegistry

from server.auth import api_keys
from server.sections import SqlSection
from server.settings import Settings

from .figures import SqlFigures
from .login import OpenSession
from .wire.cancelling import shutting_down
from .wire.connection import Connection, Service
from .wire.endpoint import endpoint_binding
from .wire.limits import Limits
from .wire.scram import Verifiers

log = structlog.get_logger("vecmirror.sql")

#: Seconds for last words once everything has been told to end.
_LAST_WORDS_S = 1.0
#: Connections that may wait to be accepted.
_BACKLOG = 1024


class CannotServeSql(Exception):
    """The SQL port cannot be opened; the message says which setting is wrong and why."""


class SqlPort:
    """One listening socket and the clients that came through it."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        open_session: OpenSession,
        registry: CollectorRegistry,
    ) -> None:
        """Read the certificate and prepare the keys. Raise CannotServeSql."""
        sql = settings.sql
        context, binding = _tls(sql)
        self._service = Service(
            open_session=open_session,
            verifiers=Verifiers(api_keys(settings)),
            limits=Limits.from_section(sql),
            figures=SqlFigures(registry, lambda: self.n_connections),
            max_connections=sql.max_connections,
            ssl_context=context,
            binding=binding,
            require_tls=sql.require_tls,
        )
        self._listener = listener
        self._server: asyncio.Server | None = None

    @property
    def n_connections(self) -> int:
        """Clients that have logged in."""
        return len(self._service.inside)

    async def start(self) -> None:
        """Take clients."""
        loop = asyncio.get_running_loop()
        make: Callable[[], Connection] = lambda: Connection(self._service)  # noqa: E731
        self._server = await loop.create_server(make, sock=self._listener, backlog=_BACKLOG)
        host, port = self._listener.getsockname()[:2]
        log.info(
            "sql port listening", host=host, port=port, tls=self._service.ssl_context is not None
        )

    async def stop(self, grace_s: float) -> None:
        """Take no more clients; end those there are."""
        if self._server is None:
            return
        self._server.close()
        connections = [*self._service.waiting, *self._service.inside]
        for connection in connections:
            connection.end(shutting_down())
        await _ended(connections, grace_s)
        for connection in connections:
            connection.end_now(shutting_down())
        await _ended(connections, _LAST_WORDS_S)
        for connection in connections:
            connection.abort()
        await _ended(connections, _LAST_WORDS_S)


async def _ended(connections: list[Connection], timeout_s: float) -> None:
    """Wait until the connections' tasks have ended; forget those that have."""
    tasks = [connection.task for connection in connections if connection.task is not None]
    if tasks:
        await asyncio.wait(tasks, timeout=timeout_s)
    connections[:] = [one for one in connections if one.task and not one.task.done()]


def _tls(sql: SqlSection) -> tuple[ssl.SSLContext | None, bytes | None]:
    """Return the context of the certificate, and what binds logins to it."""
    if sql.tls_cert is None or sql.tls_key is None:
        return None, None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(sql.tls_cert, sql.tls_key)
        pem = sql.tls_cert.read_text()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise CannotServeSql(
            f"sql.tls_cert {sql.tls_cert} and sql.tls_key {sql.tls_key} cannot be used: {error}"
        ) from error
    return context, endpoint_binding(pem)
