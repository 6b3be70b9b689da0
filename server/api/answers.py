"""Search answers as JSON bytes, made in the thread that searched.

Distances stay float32 all the way, so that the shortest decimal that gives the same float32 goes
out; NaN becomes null (RFC 8259 has no NaN).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from pgsync.lsn import format_lsn
from server.column_values import column_values
from server.mirror import MirrorLike
from server.problems import SearchTimeout
from server.searching import SearchAnswer, SearchRequest, search_together


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchJob:
    """A search request and what its answer shall look like.

    ``many``: answer ``results`` (one list for each query) instead of ``hits``. ``started_s`` and
    ``deadline_s`` are perf_counter values. ``lag_ms`` gives the lag of an applied LSN.
    """

    mirror: MirrorLike
    request: SearchRequest
    many: bool
    columns: tuple[str, ...]
    with_vector: bool
    started_s: float
    deadline_s: float
    lag_ms: Callable[[int], float | None]

    @property
    def lane(self) -> Hashable | None:
        """Jobs of one lane can be one search."""
        lane = self.request.lane
        return None if lane is None else (id(self.mirror), lane)

    @property
    def kind(self) -> Hashable:
        """Jobs of one kind cost about the same for each query."""
        return (id(self.mirror), self.request.kind)

    @property
    def n_queries(self) -> int:
        """Queries, for the size of a batch."""
        return 1 if self.request.queries is None else len(self.request.queries)


def run_searches(jobs: Sequence[SearchJob]) -> list[bytes | Exception]:
    """Search for jobs of one lane together; give each its JSON or its error. Blocking."""
    now = perf_counter()
    live = [job for job in jobs if job.deadline_s > now]
    if not live:
        return [SearchTimeout() for _ in jobs]
    answers = search_together(live[0].mirror, [job.request for job in live])
    applied_lsn = answers[0].state.applied_lsn
    said = {"applied_lsn": format_lsn(applied_lsn), "lag_ms": live[0].lag_ms(applied_lsn)}
    common = orjson.dumps(said)[1:-1]
    done = iter(zip(live, answers, strict=True))
    return [
        encode(*next(done), common) if job.deadline_s > now else SearchTimeout() for job in jobs
    ]


def encode(job: SearchJob, answer: SearchAnswer, common: bytes) -> bytes:
    """Return the JSON of one answer; ``common`` are its members that all of a batch share."""
    write = _rich_hits if job.columns or job.with_vector else _plain_hits
    results = [
        write(job, answer, ids, distances)
        if len(ids) and ids[-1] >= 0
        else write(job, answer, ids[ids >= 0], distances[ids >= 0])
        for ids, distances in zip(answer.row_ids, answer.distances, strict=True)
    ]
    found = b'"results":[%b]' % b",".join(results) if job.many else b'"hits":%b' % results[0]
    took_ms = orjson.dumps(round((perf_counter() - job.started_s) * 1000, 3))
    return b'{%b,%b,"took_ms":%b}' % (found, common, took_ms)


def _plain_hits(
    job: SearchJob, answer: SearchAnswer, row_ids: NDArray[np.int64], distances: NDArray[np.float32]
) -> bytes:
    """Return the JSON of one query's hits, keys and distances only: a third of the time."""
    if not len(row_ids):
        return b"[]"
    keys = map(orjson.dumps, answer.state.keys(row_ids))
    numbers = orjson.dumps(np.ascontiguousarray(distances), option=orjson.OPT_SERIALIZE_NUMPY)
    pairs = zip(keys, numbers[1:-1].split(b","), strict=True)
    return b"[%b]" % b",".join([b'{"key":%b,"distance":%b}' % pair for pair in pairs])


def _rich_hits(
    job: SearchJob, answer: SearchAnswer, row_ids: NDArray[np.int64], distances: NDArray[np.float32]
) -> bytes:
    """Return the JSON of one query's hits with all that was asked for."""
    hits = _hits(job, answer, row_ids, distances)
    return orjson.dumps(hits, option=orjson.OPT_SERIALIZE_NUMPY)


def _hits(
    job: SearchJob, answer: SearchAnswer, row_ids: NDArray[np.int64], distances: NDArray[np.float32]
) -> list[dict[str, Any]]:
    """Return the hits of one query: r row ids and distances, nearest first."""
    state = answer.state
    keys = state.keys(row_ids)
    hits: list[dict[str, Any]] = [
        {"key": key, "distance": distance} for key, distance in zip(keys, distances, strict=True)
    ]
    if job.columns:
        values = [column_values(state.column(name).take(row_ids)) for name in job.columns]
        for hit, row in zip(hits, zip(*values, strict=True), strict=True):
            hit["columns"] = dict(zip(job.columns, row, strict=True))
    if job.with_vector:
        for hit, vector in zip(hits, state.vectors(row_ids), strict=True):
            hit["vector"] = vector
    return hits
