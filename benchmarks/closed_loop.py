"""A closed loop of searches over kept connections, from a process of its own.

    python -m benchmarks.closed_loop < PLAN > RESULT

PLAN is one JSON object: ``target`` is "http" or "postgres", ``queries`` names a .npy file of
f32[q, d], ``concurrency`` connections each send their next request when the answer to the last one
is there, for ``seconds`` after a warm-up. "http" has ``port``, ``path`` and ``form`` ("json" or
"raw"); "postgres" has ``dsn``, ``query`` (one parameter, the vector as text) and ``settings``.
RESULT has ``requests``, ``seconds``, ``p50_ms``, ``p99_ms`` and ``cpu_s``, the driver's own.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import psycopg
import uvloop

from .writer import vector_text

WARM_UP_S = 0.5
HITS = 10
#: Longest time for connecting and for the last answers, beyond the time that is measured.
GRACE_S = 30.0


class LoopBroken(Exception):
    """A request was refused or a connection was closed."""


@dataclass(slots=True)
class Clock:
    """When to begin to count and when to end (time.perf_counter); ``took_s`` of what counted."""

    begin_s: float
    end_s: float
    took_s: list[float] = field(default_factory=list)

    def note(self, asked_s: float) -> bool:
        """Count a request that was asked at ``asked_s``; return whether to go on."""
        now = time.perf_counter()
        if asked_s >= self.begin_s and now <= self.end_s:
            self.took_s.append(now - asked_s)
        return now < self.end_s


class _HttpLoop(asyncio.Protocol):
    """One connection: sends prepared requests, reads answers with a Content-Length."""

    def __init__(
        self, requests: Iterator[bytes], clock: Clock, ended: asyncio.Future[None]
    ) -> None:
        self._requests, self._clock, self._ended = requests, clock, ended
        self._received = bytearray()
        self._asked_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own has no such ancestor
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank or len(body) < _content_length(head):
            return
        self._received.clear()
        if b" 200 " not in head[:16]:
            self._end(LoopBroken(bytes(head[:64]).decode(errors="replace")))
        elif self._clock.note(self._asked_s):
            self._ask()
        else:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or LoopBroken("the server closed a connection"))

    def _ask(self) -> None:
        self._asked_s = time.perf_counter()
        self._transport.write(next(self._requests))

    def _end(self, error: Exception | None) -> None:
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
        self._transport.close()


def _content_length(head: bytearray) -> int:
    for line in bytes(head).lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise LoopBroken("an answer has no Content-Length")


def http_requests(plan: dict[str, Any], queries: np.ndarray[Any, Any]) -> list[bytes]:
    """Return one whole HTTP request for each query f32[q, d]."""
    raw = plan["form"] == "raw"
    path = f"{plan['path']}?k={HITS}" if raw else plan["path"]
    kind = "application/octet-stream" if raw else "application/json"
    requests = []
    for query in queries:
        body = query.astype("<f4").tobytes()
        if not raw:
            body = json.dumps({"vector": query.tolist(), "k": HITS}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return requests


async def _http(plan: dict[str, Any], queries: np.ndarray[Any, Any], clock: Clock) -> None:
    loop = asyncio.get_running_loop()
    requests = itertools.cycle(http_requests(plan, queries))
    ends: list[asyncio.Future[None]] = []
    for _ in range(plan["concurrency"]):
        ended = loop.create_future()
        ends.append(ended)
        protocol = functools.partial(_HttpLoop, requests, clock, ended)
        await loop.create_connection(protocol, "127.0.0.1", plan["port"])
    await asyncio.gather(*ends)


async def _postgres(plan: dict[str, Any], queries: np.ndarray[Any, Any], clock: Clock) -> None:
    texts = itertools.cycle([vector_text(query) for query in queries])

    async def ask_on() -> None:
        conn = await psycopg.AsyncConnection.connect(
            plan["dsn"], autocommit=True, prepare_threshold=1
        )
        async with conn:
            for name, value in plan["settings"].items():
                await conn.execute("SELECT set_config(%s, %s, false)", (name, value))
            going = True
            while going:
                asked_s = time.perf_counter()
                cursor = await conn.execute(plan["query"], (next(texts),))
                await cursor.fetchall()
                going = clock.note(asked_s)

    await asyncio.gather(*(ask_on() for _ in range(plan["concurrency"])))


TARGETS: dict[str, Callable[[dict[str, Any], np.ndarray[Any, Any], Clock], Awaitable[None]]] = {
    "http": _http,
    "postgres": _postgres,
}


def run(plan: dict[str, Any]) -> dict[str, float]:
    """Send searches by the plan; return what was measured."""
    queries = np.load(plan["queries"])
    cpu_before_s = time.process_time()
    begin_s = time.perf_counter() + WARM_UP_S
    clock = Clock(begin_s, begin_s + plan["seconds"])

    async def search() -> None:
        async with asyncio.timeout(WARM_UP_S + plan["seconds"] + GRACE_S):
            await TARGETS[plan["target"]](plan, queries, clock)

    uvloop.run(search())
    p50, p99 = np.percentile(clock.took_s, [50, 99]) * 1e3
    return {
        "requests": len(clock.took_s),
        "seconds": plan["seconds"],
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "cpu_s": round(time.process_time() - cpu_before_s, 3),
    }


if __name__ == "__main__":
    print(json.dumps(run(json.load(sys.stdin))))
