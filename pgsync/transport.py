"""HttpConnection: one kept-open HTTP/1.1 connection to the index server, by the standard library.

A batch of one row costs more to send than to decode, so little stands between it and the socket:
the head of a request is bytes made once, and goes out together with a small body.

Invariants:

- A request may be sent twice: all must be idempotent, as batches are by (commit LSN, ordinal).
- A connection on which a request did not end in order is closed.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from .errors import SinkError, SinkUnavailable

#: A batch is written and applied within seconds; a server that needs longer is stuck.
REQUEST_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 5.0

#: A body up to this size is copied once to save a packet.
_SMALL_BODY_BYTES = 16 << 10

#: Called while the server keeps us waiting; returns in how many seconds to call again.
Meanwhile = Callable[[], float]

#: Most answers are there before this.
_FIRST_WAIT_S = 0.002


@dataclass(frozen=True, slots=True)
class Response:
    """Status and body of an answer."""

    status: int
    body: bytes


class HttpConnection:
    """A connection that opens itself when needed. Use one for each thread."""

    def __init__(self, base_url: str, api_key: str | None = None, uds: str | None = None) -> None:
        """Speak to ``http[s]://host[:port][/prefix]``; over the socket ``uds`` if there is one.

        Raises SinkError for an address of another form and a key that no header can carry.
        """
        self._http, host, self._prefix = _client(base_url, uds)
        self._head = f"Host: {host}\r\nAccept: application/json\r\n"
        if api_key is not None:
            if not (api_key.isascii() and api_key.isprintable()):
                raise SinkError("the API key has characters that no HTTP header can carry")
            self._head += f"Authorization: Bearer {api_key}\r\n"

    def get(self, path: str) -> Response:
        """Return the answer, whatever its status; raise SinkUnavailable."""
        return self._request(f"GET {self._prefix}{path} HTTP/1.1\r\n{self._head}\r\n", b"", None)

    def post(
        self,
        path: str,
        content_type: str,
        body: memoryview,
        meanwhile: Meanwhile | None = None,
    ) -> Response:
        """Send a body and return the answer, whatever its status; raise SinkUnavailable.

        ``meanwhile`` must not raise.
        """
        head = (
            f"POST {self._prefix}{path} HTTP/1.1\r\n{self._head}"
            f"Content-Type: {content_type}\r\nContent-Length: {body.nbytes}\r\n\r\n"
        )
        return self._request(head, body, meanwhile)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._http.close()

    def _request(
        self, head: str, body: bytes | memoryview, meanwhile: Meanwhile | None
    ) -> Response:
        """Exchange a request; again, once, where the server closed a kept connection meanwhile."""
        kept = self._open()
        try:
            return self._exchange(head.encode(), body, _Waiter(self._http.sock, meanwhile))
        except (OSError, http.client.HTTPException) as error:
            self._http.close()
            if not (kept and isinstance(error, ConnectionError)):
                raise SinkUnavailable("the index server does not answer") from error
        except BaseException:
            self._http.close()
            raise
        return self._request(head, body, meanwhile)

    def _open(self) -> bool:
        """Make sure that there is a connection; return whether it was kept from before."""
        if self._http.sock is not None and not _ready(self._http.sock, select.POLLIN, 0.0):
            return True
        self._http.close()  # Bytes, or an end, that no request has asked for.
        try:
            self._http.connect()  # sets TCP_NODELAY
        except OSError as error:
            self._http.close()
            raise SinkUnavailable("the index server does not answer") from error
        return False

    def _exchange(self, head: bytes, body: bytes | memoryview, waiter: _Waiter) -> Response:
        connection = self._http.sock
        if len(body) <= _SMALL_BODY_BYTES:
            waiter.send(head + body)
        else:
            waiter.send(head)
            waiter.send(body)
        waiter.wait(select.POLLIN)
        connection.settimeout(REQUEST_TIMEOUT_S)
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
            answer = Response(response.status, response.read())
        finally:
            response.close()
        if response.will_close:
            self._http.close()
        return answer


class _Waiter:
    """Waits for a socket within the time that a request has, doing something else meanwhile."""

    def __init__(self, connection: socket.socket, meanwhile: Meanwhile | None) -> None:
        self._socket, self._meanwhile = connection, meanwhile
        self._deadline = time.monotonic() + REQUEST_TIMEOUT_S

    def send(self, data: bytes | memoryview) -> None:
        """Send everything; raise OSError."""
        self._socket.settimeout(0.0)
        rest = memoryview(data).cast("B")
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self.wait(select.POLLOUT)

    def wait(self, event: int) -> None:
        """Return when the socket is ready; raise TimeoutError."""
        wait_s = REQUEST_TIMEOUT_S if self._meanwhile is None else _FIRST_WAIT_S
        while not _ready(self._socket, event, wait_s):
            if time.monotonic() >= self._deadline:
                raise TimeoutError
            if self._meanwhile is not None:
                wait_s = self._meanwhile()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("vecmirror", timeout=CONNECT_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_TIMEOUT_S)
        self.sock.connect(self._path)


def _client(base_url: str, uds: str | None) -> tuple[http.client.HTTPConnection, str, str]:
    """Return an unopened client, what to call the host, and the path before every other."""
    try:
        url = urlsplit(base_url)
        host, port, prefix = url.hostname, url.port, url.path.rstrip("/")
    except ValueError:  # a port that is no number
        host = None
    if host is None or url.scheme not in {"http", "https"}:
        raise SinkError(f"the server's address is not of the form http://host:port: {base_url}")
    name = url.netloc.rpartition("@")[2]
    if uds is not None:
        return _UnixConnection(uds), name, prefix
    if url.scheme == "http":
        return http.client.HTTPConnection(host, port, CONNECT_TIMEOUT_S), name, prefix
    trust = ssl.create_default_context()
    secure = http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT_S, context=trust)
    return secure, name, prefix


def _ready(connection: socket.socket, event: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(connection, event)
    return bool(poll.poll(timeout_s * 1e3))
