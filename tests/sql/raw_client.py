"""A client that sends whatever it is told, message by message, and shows what came back."""

from __future__ import annotations

import socket
import struct
from types import TracebackType

PROTOCOL_3_0, PROTOCOL_3_2 = 3 << 16, 3 << 16 | 2


def message(kind: bytes, body: bytes = b"") -> bytes:
    """Return one message."""
    return kind + struct.pack("!i", len(body) + 4) + body


def startup(version: int = PROTOCOL_3_0, **parameters: str) -> bytes:
    """Return a startup packet; names may begin with ``_pq_`` for ``_pq_.``."""
    words = {"user": "me", **parameters}
    body = struct.pack("!I", version)
    for name, value in words.items():
        said = name.replace("_pq_", "_pq_.") if name.startswith("_pq_") else name
        body += said.encode() + b"\0" + value.encode() + b"\0"
    return struct.pack("!i", len(body) + 5) + body + b"\0"


def query(text: str) -> bytes:
    """Return a simple query."""
    return message(b"Q", text.encode() + b"\0")


def parse(text: str, name: str = "", oids: tuple[int, ...] = ()) -> bytes:
    """Return Parse."""
    types = struct.pack(f"!H{len(oids)}I", len(oids), *oids)
    return message(b"P", name.encode() + b"\0" + text.encode() + b"\0" + types)


def bind(*values: bytes | None, portal: str = "", name: str = "", binary: bool = False) -> bytes:
    """Return Bind with text parameters; ``binary``: results as binary."""
    body = portal.encode() + b"\0" + name.encode() + b"\0" + struct.pack("!HH", 0, len(values))
    for value in values:
        body += b"\xff\xff\xff\xff" if value is None else struct.pack("!i", len(value)) + value
    return message(b"B", body + struct.pack("!HH", 1, int(binary)))


def execute(portal: str = "", max_rows: int = 0) -> bytes:
    """Return Execute."""
    return message(b"E", portal.encode() + b"\0" + struct.pack("!i", max_rows))


def describe(kind: str, name: str = "") -> bytes:
    """Return Describe of a (S)tatement or (P)ortal."""
    return message(b"D", kind.encode() + name.encode() + b"\0")


def close(kind: str, name: str = "") -> bytes:
    """Return Close of a (S)tatement or (P)ortal."""
    return message(b"C", kind.encode() + name.encode() + b"\0")


SYNC, FLUSH, TERMINATE = message(b"S"), message(b"H"), message(b"X")
SSL_REQUEST, GSSENC_REQUEST = struct.pack("!ii", 8, 80877103), struct.pack("!ii", 8, 80877104)


def cancel(process_id: int, key: bytes) -> bytes:
    """Return CancelRequest."""
    return struct.pack("!iii", 12 + len(key), 80877102, process_id) + key


def error_fields(body: bytes) -> dict[str, str]:
    """Return the fields of ErrorResponse or NoticeResponse by their letters."""
    return {part[:1].decode(): part[1:].decode() for part in body.split(b"\0") if part}


class RawClient:
    """One connection; a context manager."""

    def __init__(self, port: int, timeout_s: float = 10) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._stream = self.socket.makefile("rb")

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Go away without a word."""
        self._stream.close()
        self.socket.close()

    def send(self, *data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(b"".join(data))

    def read(self) -> tuple[str, bytes]:
        """Return kind and body of the next message; ("", b"") at the end of the connection."""
        try:
            head = self._stream.read(5)
        except ConnectionResetError:
            head = b""
        if len(head) < 5:
            return "", b""
        kind, size = struct.unpack("!ci", head)
        return kind.decode(), self._stream.read(size - 4)

    def read_byte(self) -> bytes:
        """Return the answer to a request for encryption."""
        return self._stream.read(1)

    def until_ready(self) -> list[tuple[str, bytes]]:
        """Return the messages up to ReadyForQuery, or up to the end."""
        found = [self.read()]
        while found[-1][0] not in ("Z", ""):
            found.append(self.read())
        return found

    def ask(self, *data: bytes) -> list[tuple[str, bytes]]:
        """Send, and return the messages up to ReadyForQuery."""
        self.send(*data)
        return self.until_ready()

    def log_in(self, version: int = PROTOCOL_3_0, **parameters: str) -> list[tuple[str, bytes]]:
        """Start without a password; return what the server said."""
        return self.ask(startup(version, **parameters))


def kinds(messages: list[tuple[str, bytes]]) -> str:
    """Return the kinds of messages as one word."""
    return "".join(kind for kind, _ in messages)


def key_of(messages: list[tuple[str, bytes]]) -> tuple[int, bytes]:
    """Return process id and cancel key."""
    body = next(body for kind, body in messages if kind == "K")
    return struct.unpack_from("!i", body)[0], body[4:]


def error_of(messages: list[tuple[str, bytes]]) -> dict[str, str]:
    """Return the fields of the only ErrorResponse."""
    (body,) = [body for kind, body in messages if kind == "E"]
    return error_fields(body)


def rows_of(messages: list[tuple[str, bytes]]) -> list[list[bytes | None]]:
    """Return the rows of DataRow messages, undecoded."""
    return [_fields(body) for kind, body in messages if kind == "D"]


def _fields(body: bytes) -> list[bytes | None]:
    fields: list[bytes | None] = []
    at = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        (size,) = struct.unpack_from("!i", body, at)
        at += 4
        fields.append(None if size < 0 else body[at : at + size])
        at += max(0, size)
    assert at == len(body)
    return fields
