"""A closed loop of HTTP searches over kept connections, from a process of its own.

    python -m benchmarks.closed_loop < PLAN > RESULT

PLAN is one JSON object: ``queries`` names a .npy file of f32[q, d], ``concurrency`` connections to
``port`` each POST their next request to ``path`` when the answer to the last one is there, for
``seconds`` after a warm-up. ``form`` is "json" or "raw"; ``options`` is what a request says beside
its vector. RESULT has ``requests``, ``seconds``, ``p50_ms``, ``p99_ms`` and ``cpu_s``, the
driver's own.

The driver shares the machine with what it measures, so it is as light as Python can be: requests
are whole before the clock starts, sockets are plain, one thread waits in epoll(7).
"""

from __future__ import annotations

import itertools
import json
import select
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import numpy as np

WARM_UP_S = 0.5
HITS = 10
#: Longest time without any answer.
GRACE_S = 30.0
_RECEIVE_BYTES = 1 << 16
_LENGTH = b"content-length: "


class LoopBroken(Exception):
    """A request was refused or a connection was closed."""


@dataclass(slots=True)
class Clock:
    """When to begin to count and when to end (time.perf_counter); ``took_s`` of what counted."""

    begin_s: float
    end_s: float
    took_s: list[float] = field(default_factory=list)

    def note(self, asked_s: float, now_s: float) -> bool:
        """Count a request that was asked at ``asked_s``; return whether to go on."""
        if asked_s >= self.begin_s and now_s <= self.end_s:
            self.took_s.append(now_s - asked_s)
        return now_s < self.end_s


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    asked_s: float = 0.0
    received: bytes = b""

    def ask(self, request: bytes, now_s: float) -> None:
        self.asked_s = now_s
        self.received = b""
        self.socket.sendall(request)

    def answered(self) -> bool:
        """Take what has arrived; return whether the answer is whole. Raise LoopBroken."""
        part = self.socket.recv(_RECEIVE_BYTES)
        if not part:
            raise LoopBroken("the server closed a connection")
        self.received = self.received + part if self.received else part
        return is_whole(self.received)


def is_whole(answer: bytes) -> bool:
    """Return whether ``answer`` is all of a 200; raise LoopBroken for another status."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    if not answer.startswith(b"HTTP/1.1 200"):
        raise LoopBroken(answer[:64].decode(errors="replace"))
    at = answer.find(_LENGTH, 0, end)
    if at < 0:
        raise LoopBroken("an answer has no content-length")
    stop = answer.index(b"\r\n", at)
    return len(answer) >= end + 4 + int(answer[at + len(_LENGTH) : stop])


def http_requests(plan: Mapping[str, Any], queries: np.ndarray[Any, Any]) -> list[bytes]:
    """Return one whole HTTP request for each query f32[q, d]."""
    raw = plan["form"] == "raw"
    options = {"k": HITS, **plan.get("options", {})}
    path = f"{plan['path']}?{urlencode(options)}" if raw else plan["path"]
    kind = "application/octet-stream" if raw else "application/json"
    requests = []
    for query in queries:
        body = query.astype("<f4").tobytes()
        if not raw:
            body = json.dumps({"vector": shortest(query), **options}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return requests


def shortest(vector: np.ndarray[Any, Any]) -> list[float]:
    """Return f32[d] as the numbers with the fewest digits that are the same float32."""
    return [float(str(value)) for value in vector.astype(np.float32)]


def run(plan: Mapping[str, Any]) -> dict[str, float]:
    """Send searches by the plan; return what was measured."""
    requests = itertools.cycle(http_requests(plan, np.load(plan["queries"])))
    cpu_before_s = time.process_time()
    begin_s = time.perf_counter() + WARM_UP_S
    clock = Clock(begin_s, begin_s + plan["seconds"])
    connections = [
        _Connection(socket.create_connection(("127.0.0.1", plan["port"]), GRACE_S))
        for _ in range(plan["concurrency"])
    ]
    try:
        _ask_on(connections, requests, clock)
    finally:
        for connection in connections:
            connection.socket.close()
    p50, p99 = np.percentile(clock.took_s, [50, 99]) * 1e3
    return {
        "requests": len(clock.took_s),
        "seconds": plan["seconds"],
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "cpu_s": round(time.process_time() - cpu_before_s, 3),
    }


def _ask_on(connections: list[_Connection], requests: itertools.cycle[bytes], clock: Clock) -> None:
    """Keep one request under way on each connection until the clock has run out."""
    going = {connection.socket.fileno(): connection for connection in connections}
    with select.epoll() as poll:
        for number, connection in going.items():
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            poll.register(number, select.EPOLLIN)
            connection.ask(next(requests), time.perf_counter())
        while going:
            ready = poll.poll(GRACE_S)
            if not ready:
                raise LoopBroken(f"no answer in {GRACE_S:g} s")
            for number, _ in ready:
                connection = going[number]
                if not connection.answered():
                    continue
                now_s = time.perf_counter()
                if clock.note(connection.asked_s, now_s):
                    connection.ask(next(requests), now_s)
                else:
                    poll.unregister(number)
                    del going[number]


if __name__ == "__main__":
    print(json.dumps(run(json.load(sys.stdin))))
