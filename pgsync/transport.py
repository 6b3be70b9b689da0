"""HttpConnection: one kept-open HTTP/1.1 connection to the index server, by the standard library.

A batch of one row costs more to send than to decode, so nothing stands between it and the socket.
Requests may be sent twice by this module: all of them must be idempotent, as batches are by
(commit LSN, ordinal).
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .errors import SinkError, SinkUnavailable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: A batch is written and applied within seconds; a server that needs longer is stuck.
REQUEST_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Response:
    """Status and body of an answer."""

    status: int
    body: bytes


class HttpConnection:
    """A connection that opens itself when needed. Use one for each thread."""

    def __init__(self, base_url: str, headers: Mapping[str, str], uds: str | None = None) -> None:
        """Speak to ``http[s]://host[:port][/prefix]``; over the socket ``uds`` if there is one.

        ``headers`` go with every request. Raises SinkError for an address of another form.
        """
        self._headers = dict(headers)
        self._http, self._prefix = _client(base_url, uds)

    def request(
        self,
        method: str,
        path: str,
        body: ReadableBuffer | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request and return its answer, whatever its status; raise SinkUnavailable.

        Where the server closed a kept connection meanwhile, it is sent on a new one, once.
        """
        kept = self._open()
        try:
            return self._exchange(method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self._http.close()
            if not (kept and isinstance(error, ConnectionError)):
                raise SinkUnavailable("the index server does not answer") from error
        return self.request(method, path, body, headers)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._http.close()

    def _open(self) -> bool:
        """Make sure that there is a connection; return whether it was kept from before."""
        kept = self._http.sock
        if kept is not None and not _readable(kept):
            return True
        self._http.close()  # Bytes, or an end, that no request has asked for.
        try:
            self._http.connect()
        except OSError as error:
            self._http.close()
            raise SinkUnavailable("the index server does not answer") from error
        self._http.sock.settimeout(REQUEST_TIMEOUT_S)
        return False

    def _exchange(
        self,
        method: str,
        path: str,
        body: ReadableBuffer | None,
        headers: Mapping[str, str] | None,
    ) -> Response:
        # http.client counts the bytes of any buffer, and sends it without a copy.
        all_headers = {**self._headers, **(headers or {})}
        self._http.request(method, self._prefix + path, body, all_headers)
        response = self._http.getresponse()
        return Response(response.status, response.read())


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("vecmirror", timeout=CONNECT_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_TIMEOUT_S)
        self.sock.connect(self._path)


def _client(base_url: str, uds: str | None) -> tuple[http.client.HTTPConnection, str]:
    """Return an unopened client and the path before every other."""
    try:
        url = urlsplit(base_url)
        host, port, prefix = url.hostname, url.port, url.path.rstrip("/")
    except ValueError:  # a port that is no number
        host = None
    if host is None or url.scheme not in {"http", "https"}:
        raise SinkError(f"the server's address is not of the form http://host:port: {base_url}")
    if uds is not None:
        return _UnixConnection(uds), prefix
    if url.scheme == "http":
        return http.client.HTTPConnection(host, port, CONNECT_TIMEOUT_S), prefix
    trust = ssl.create_default_context()
    secure = http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT_S, context=trust)
    return secure, prefix


def _readable(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
