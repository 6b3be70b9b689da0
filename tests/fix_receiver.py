"""Receiver: an HTTP server that takes change batches into a dict, for tests of the sidecar alone.

It follows the contract of ``pgsync/changes.py`` in the plainest way: rows by key, changes staged
until the watermark passes them, repeats dropped by (commit LSN, ordinal). Faults can be ordered.

receiver    a running Receiver without indexes
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pgsync.changes import BatchKind, ChangeBatch, Op, VectorState
from pgsync.lsn import format_lsn
from pgsync.table import TableSpec

Row = dict[str, Any]

_MARKERS = (BatchKind.COPY_BEGIN, BatchKind.COPY_END)


@dataclass
class ReceivedIndex:
    """One index: ``rows`` by key tuple, each a dict of its vector (list or None) and columns."""

    name: str
    table: TableSpec
    publication: str = "mirror"
    slot: str = "mirror"
    database: str | None = None
    phase: str = "new"
    epoch: int = 0
    watermark_lsn: int = 0
    durable_lsn: int = 0
    source_lsn: int = 0
    system_id: str | None = None
    rows: dict[tuple[Any, ...], Row] = field(default_factory=dict)
    last_change: tuple[int, int] = (0, -1)
    staged: list[Row] = field(default_factory=list)
    copies: int = 0
    repeats: int = 0
    last_kind: BatchKind | None = None
    batches: list[ChangeBatch] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        """Return the JSON of the description."""
        return {
            "name": self.name,
            "phase": self.phase,
            "epoch": self.epoch,
            "durable_lsn": format_lsn(self.durable_lsn),
            "applied_lsn": format_lsn(self.watermark_lsn),
            "system_id": self.system_id,
            "spec": {
                "name": self.name,
                "table": self.table.to_json(),
                "publication": self.publication,
                "slot": self.slot,
                "database": self.database,
            },
        }

    def take(self, batch: ChangeBatch, sync: bool) -> dict[str, Any]:
        """Apply a batch and return the answer."""
        self.batches.append(batch)
        self.source_lsn = max(self.source_lsn, batch.source_lsn)
        if batch.kind is self.last_kind and batch.kind in _MARKERS and batch.epoch == self.epoch:
            self.repeats += 1
        elif batch.kind is BatchKind.COPY_BEGIN:
            self._begin(batch)
        else:
            assert batch.epoch == self.epoch, "a batch of another epoch"
            assert (self.phase == "live") == (batch.kind is BatchKind.CHANGES)
            self._stage(batch)
        self.last_kind = batch.kind
        if batch.kind is BatchKind.COPY_END:
            self.phase = "live"
        self.watermark_lsn = max(self.watermark_lsn, batch.watermark_lsn)
        self._apply(everything=batch.kind is BatchKind.COPY)
        if batch.rows.num_rows or sync or batch.kind is not BatchKind.CHANGES:
            self.durable_lsn = self.watermark_lsn
        return {
            "durable_lsn": format_lsn(self.durable_lsn),
            "applied_lsn": format_lsn(self.watermark_lsn),
            "epoch": self.epoch,
        }

    def _begin(self, batch: ChangeBatch) -> None:
        assert batch.epoch > self.epoch
        self.epoch, self.phase, self.system_id = batch.epoch, "copying", batch.system_id
        self.rows, self.staged, self.last_change = {}, [], (0, -1)
        self.watermark_lsn = batch.watermark_lsn
        self.copies += 1

    def _stage(self, batch: ChangeBatch) -> None:
        for change in batch.rows.to_pylist():
            position = (change["commit_lsn"], change["ordinal"])
            if position <= self.last_change:
                self.repeats += 1
                continue
            self.last_change = position
            self.staged.append(change)

    def _apply(self, everything: bool) -> None:
        ready = [c for c in self.staged if everything or c["commit_lsn"] < self.watermark_lsn]
        self.staged = self.staged[len(ready) :]
        for change in ready:
            self._apply_one(change)

    def _apply_one(self, change: Row) -> None:
        key = tuple(change[f"key:{column.name}"] for column in self.table.key)
        old = tuple(change[f"old:{column.name}"] for column in self.table.key)
        if change["op"] == Op.TRUNCATE:
            self.rows.clear()
            return
        before = self.rows.pop(key if None in old else old, None)
        if change["op"] == Op.DELETE:
            return
        row: Row = {"vector": change["vector"], "state": VectorState(change["vector_state"])}
        if row["state"] is VectorState.UNCHANGED:
            assert before is not None, "an unchanged vector of a row that was never seen"
            row = {"vector": before["vector"], "state": before["state"]}
        for bit, column in enumerate(self.table.columns):
            kept = change["unchanged"] >> bit & 1
            row[column.name] = (before or {})[column.name] if kept else change[f"col:{column.name}"]
        self.rows[key] = row

    def vectors(self) -> dict[Any, list[float] | None]:
        """Return the vectors by key; by the bare value for keys of one column."""
        return {key[0] if len(key) == 1 else key: row["vector"] for key, row in self.rows.items()}


class Receiver:
    """The HTTP server. ``faults`` holds what happens to the next change calls, first in first out.

    A fault is a status to answer without taking the batch, or ``"lose answer"``: the batch is
    taken and the connection cut. While ``loading`` it lists nothing yet and describes no index.
    """

    def __init__(self) -> None:
        self.indexes: dict[str, ReceivedIndex] = {}
        self.faults: list[int | str] = []
        self.problem_type = "urn:vecmirror:problem:not-ready"
        self.answer_delay_s = 0.0
        self.loading = False
        self.lock = threading.Lock()
        self.requests: list[tuple[str, str | None]] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def add(self, name: str, table: TableSpec, **names: Any) -> ReceivedIndex:
        """Create an index that waits for its copy."""
        index = ReceivedIndex(name, table, **names)
        self.indexes[name] = index
        return index

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                receiver.get(self)

            def do_POST(self) -> None:
                receiver.post(self)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def get(self, request: BaseHTTPRequestHandler) -> None:
        """Answer the list of indexes or one description."""
        parts = urlsplit(request.path).path.strip("/").split("/")
        with self.lock:
            self.requests.append((request.path, request.headers.get("authorization")))
            if len(parts) == 2:
                known = [] if self.loading else self.indexes.values()
                _answer(request, 200, {"indexes": [index.describe() for index in known]})
            elif self.loading:
                _answer(request, 503, {"type": "urn:vecmirror:problem:not-ready"})
            elif parts[2] in self.indexes:
                _answer(request, 200, self.indexes[parts[2]].describe())
            else:
                _answer(request, 404, {"type": "urn:vecmirror:problem:unknown-index"})

    def post(self, request: BaseHTTPRequestHandler) -> None:
        """Take a change batch, unless a fault is due."""
        url = urlsplit(request.path)
        body = request.rfile.read(int(request.headers["content-length"]))
        time.sleep(self.answer_delay_s)
        with self.lock:
            fault = self.faults.pop(0) if self.faults else None
            if isinstance(fault, int):
                _answer(request, fault, {"type": self.problem_type, "detail": "ordered"})
                return
            index = self.indexes.get(url.path.split("/")[3])
            if index is None:
                _answer(request, 404, {"type": "urn:vecmirror:problem:unknown-index"})
                return
            answer = index.take(ChangeBatch.from_ipc(body), "sync" in parse_qs(url.query))
        if fault == "lose answer":
            request.close_connection = True
            return
        _answer(request, 200, answer)


def _answer(request: BaseHTTPRequestHandler, status: int, body: dict[str, Any]) -> None:
    encoded = json.dumps(body).encode()
    request.send_response(status)
    request.send_header("content-type", "application/json")
    request.send_header("content-length", str(len(encoded)))
    request.end_headers()
    request.wfile.write(encoded)


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Wait until ``condition`` holds; fail the test when it takes too long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(0.01)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Return a running receiver without indexes."""
    running = Receiver()
    yield running
    running.close()
