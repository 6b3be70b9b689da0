"""The client of the index server: addresses, keys, and what its problems mean."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from pgsync.changes import BatchKind, ChangeBatch
from pgsync.errors import ResyncNeeded, SinkError, SinkUnavailable
from pgsync.session import empty_rows
from pgsync.sink import IndexDescription, Sink, problem_error, split_server
from pgsync.table import ColumnSpec, TableSpec
from pgsync.transport import HttpConnection
from tests.fix_receiver import Receiver

TABLE = TableSpec(
    schema="public",
    table="docs",
    relation_id=7,
    vector_column="v",
    vector_type="vector",
    dim=3,
    key=(ColumnSpec("id", "int8"),),
)


def begin(epoch: int = 1) -> ChangeBatch:
    return ChangeBatch(
        kind=BatchKind.COPY_BEGIN,
        epoch=epoch,
        watermark_lsn=0x1_0000_0010,
        source_lsn=0,
        system_id="7",
        rows=empty_rows(TABLE),
    )


def test_a_batch_arrives_with_the_key_and_is_acknowledged(receiver: Receiver) -> None:
    index = receiver.add("docs", TABLE)
    with Sink(receiver.url, "secret") as sink:
        receipt = sink.send("docs", begin())
        assert (receipt.durable_lsn, receipt.epoch) == (0x1_0000_0010, 1)
        described = sink.describe("docs")
    assert described is not None
    assert described.table == TABLE
    assert (described.phase, described.durable_lsn) == ("copying", 0x1_0000_0010)
    assert receiver.requests[-1] == ("/v1/indexes/docs", "Bearer secret")
    assert index.copies == 1


def test_indexes_are_listed_and_a_missing_one_is_none(receiver: Receiver) -> None:
    receiver.add("docs", TABLE)
    with Sink(receiver.url) as sink:
        assert [index.name for index in sink.indexes()] == ["docs"]
        assert sink.describe("no such") is None


def test_a_change_for_a_missing_index_is_an_error(receiver: Receiver) -> None:
    with Sink(receiver.url) as sink, pytest.raises(SinkError) as caught:
        sink.send("docs", begin())
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (409, "urn:vecmirror:problem:resync-required", ResyncNeeded),
        (409, "https://example.org/problems/stale-epoch", ResyncNeeded),
        (409, "urn:vecmirror:problem:pin-conflict", SinkError),
        (503, "urn:vecmirror:problem:not-ready", SinkUnavailable),
        (429, "about:blank", SinkUnavailable),
        (400, "urn:vecmirror:problem:bad-batch", SinkError),
        (401, "urn:vecmirror:problem:unauthorized", SinkError),
    ],
)
def test_problems_become_the_error_that_says_what_to_do(
    receiver: Receiver, status: int, kind: str, expected: type[Exception]
) -> None:
    receiver.add("docs", TABLE)
    receiver.faults, receiver.problem_type = [status], kind
    with Sink(receiver.url) as sink, pytest.raises(expected) as caught:
        sink.send("docs", begin())
    assert type(caught.value) is expected
    assert "ordered" in str(caught.value)


def test_a_server_that_is_not_there_is_unavailable(receiver: Receiver) -> None:
    receiver.close()
    with Sink(receiver.url) as sink, pytest.raises(SinkUnavailable):
        sink.indexes()


def test_a_lost_answer_is_unavailable_not_refused(receiver: Receiver) -> None:
    index = receiver.add("docs", TABLE)
    receiver.faults = ["lose answer"]
    with Sink(receiver.url) as sink, pytest.raises(SinkUnavailable):
        sink.send("docs", begin())
    assert index.copies == 1


def test_a_proxy_that_answers_html_has_no_problem_to_tell() -> None:
    error = problem_error(502, {})
    assert type(error) is SinkUnavailable
    assert error.status == 502


def test_descriptions_of_another_shape_are_refused() -> None:
    with pytest.raises(SinkError):
        IndexDescription.from_json({"name": "docs"})


@pytest.mark.parametrize(
    ("server", "uds", "expected"),
    [
        ("http://host:8410/", None, ("http://host:8410", None)),
        ("http+unix:///run/vecmirror.sock", None, ("http://vecmirror", "/run/vecmirror.sock")),
        ("http+unix://%2Frun%2Fa.sock", None, ("http://vecmirror", "/run/a.sock")),
        ("http://host", "/run/b.sock", ("http://host", "/run/b.sock")),
    ],
)
def test_addresses(server: str, uds: str | None, expected: tuple[str, str | None]) -> None:
    assert split_server(server, uds) == expected


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class _EmptyList(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "15")
        self.end_headers()
        self.wfile.write(b'{"indexes": []}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def unix_server(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "s.sock")
    with _UnixServer(path, _EmptyList) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def test_a_unix_socket_is_spoken_to(unix_server: str) -> None:
    with Sink(f"http+unix://{unix_server}") as sink:
        assert sink.indexes() == []
    with Sink("http://vecmirror", uds=unix_server) as sink:
        assert sink.indexes() == []


class _ClosingServer(socketserver.ThreadingTCPServer):
    """Counts connections; each is closed, without a word, after ``answers`` requests."""

    daemon_threads = True
    answers = 2
    connections = 0


class _ClosingHandler(socketserver.StreamRequestHandler):
    server: _ClosingServer

    def handle(self) -> None:
        self.server.connections += 1
        for _ in range(self.server.answers):
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"indexes": []}')


@pytest.fixture
def closing_server() -> Iterator[_ClosingServer]:
    with _ClosingServer(("127.0.0.1", 0), _ClosingHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_connection_that_the_server_closed_while_idle_is_opened_again(
    closing_server: _ClosingServer,
) -> None:
    with Sink(f"http://127.0.0.1:{closing_server.server_address[1]}") as sink:
        for _ in range(5):
            assert sink.indexes() == []
    assert closing_server.connections == 3


def test_a_server_that_closes_every_connection_is_unavailable(
    closing_server: _ClosingServer,
) -> None:
    closing_server.answers = 0
    with (
        Sink(f"http://127.0.0.1:{closing_server.server_address[1]}") as sink,
        pytest.raises(SinkUnavailable),
    ):
        sink.indexes()
    assert closing_server.connections == 1


@pytest.mark.parametrize("server", ["ftp://host", "host:8410", "http://", "http://host:port"])
def test_an_address_of_another_form_is_refused(server: str) -> None:
    with pytest.raises(SinkError, match="http://host:port"):
        Sink(server)


def test_something_else_is_done_while_the_server_keeps_us_waiting(receiver: Receiver) -> None:
    receiver.add("docs", TABLE)
    receiver.answer_delay_s = 0.2
    called: list[int] = []

    def meanwhile() -> float:
        called.append(1)
        return 0.01

    with Sink(receiver.url) as sink:
        assert sink.send("docs", begin(), meanwhile=meanwhile).epoch == 1
    assert len(called) > 1


class _LateHandler(socketserver.StreamRequestHandler):
    """Begins to read after ``meanwhile`` was called; answers with the length of the body."""

    waited_for = threading.Event()

    def handle(self) -> None:
        assert self.waited_for.wait(30.0)
        while line := self.rfile.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        answer = str(len(self.rfile.read(length))).encode()
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)


def test_a_large_body_goes_out_in_parts_while_something_else_is_done() -> None:
    body = bytes(16 << 20)

    def meanwhile() -> float:
        _LateHandler.waited_for.set()
        return 0.01

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _LateHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        connection = HttpConnection(f"http://127.0.0.1:{server.server_address[1]}")
        answer = connection.post("/", "application/octet-stream", memoryview(body), meanwhile)
        connection.close()
        server.shutdown()
        thread.join()
    assert (answer.status, answer.body) == (200, str(len(body)).encode())


def test_a_key_that_would_break_the_header_is_refused() -> None:
    with pytest.raises(SinkError, match="API key"):
        Sink("http://host", "se\r\ncret")
