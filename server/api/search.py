"""POST /v1/indexes/{name}/search: from body to job, from job to bytes."""

from __future__ import annotations

import asyncio
from time import perf_counter

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from numpy.typing import NDArray

from pgsync.lsn import parse_lsn
from server.errors import UnknownIndex
from server.mirror import MirrorLike
from server.problems import SearchTimeout, kind_of

from .asking import check_limits, job_of, read_json, read_raw
from .bodies import FLOAT32, JSON, LARGE_JSON_BYTES, media_type, parse_query, read_bytes
from .context import Context
from .guards import Server, may_read
from .openapi import body_schema, problems, query_schema
from .schemas import NoQuery, SearchAnswerBody, SearchBody, SearchOptions, SearchQuery

router = APIRouter(tags=["search"], dependencies=[Depends(may_read)])


@router.post(
    "/v1/indexes/{name}/search",
    summary="Find the nearest rows",
    response_model=SearchAnswerBody,
    responses=problems(400, 404, 409, 413, 415, 422, 429, 503, 504),
    openapi_extra={
        **body_schema(SearchBody, FLOAT32, "Query vectors: little-endian float32, row by row."),
        **query_schema(SearchQuery),
    },
)
async def search(name: str, request: Request, server: Server) -> Response:
    """Search by a vector, by several, or by an indexed row.

    JSON bodies carry everything. A body of `application/octet-stream` holds query vectors only; the
    rest stands in the query string and the answer has `results`.
    """
    started_s, outcome = perf_counter(), "cancelled"
    known = True
    try:
        body = await _search(name, request, server, started_s)
        outcome = "ok"
        return Response(body, media_type=JSON)
    except UnknownIndex:
        known = False  # a label for each misspelt name would never end
        raise
    except Exception as error:
        outcome = kind_of(error).code
        raise
    finally:
        if known:
            server.metrics.searched(name, outcome, perf_counter() - started_s)


async def _search(name: str, request: Request, server: Context, started_s: float) -> bytes:
    mirror = server.catalog.get(name)
    options, queries = await _read(request, server, mirror)
    limit_ms = options.timeout_ms or server.settings.server.search_timeout_ms
    deadline_s = started_s + limit_ms / 1000
    try:
        await _catch_up(server, mirror, options, deadline_s)
        job = job_of(
            mirror,
            options,
            queries,
            started_s=started_s,
            deadline_s=deadline_s,
            lag_ms=lambda applied_lsn: server.lag_ms(name, applied_lsn),
        )
        async with asyncio.timeout(max(0.0, deadline_s - perf_counter())):
            return await server.batcher.submit(job.lane, job, job.n_queries, job.kind)
    except TimeoutError:
        raise too_late(limit_ms) from None


def too_late(limit_ms: float) -> SearchTimeout:
    """Return the error of a search that did not end in its time."""
    return SearchTimeout(
        f"the search did not end within {limit_ms:g} ms: allow more with timeout_ms, "
        "or ask for fewer hits, lists or queries"
    )


async def _read(
    request: Request, server: Context, mirror: MirrorLike
) -> tuple[SearchOptions, NDArray[np.float32] | None]:
    """Return the options and the queries f32[q, d], None for a search by an indexed row."""
    kind = media_type(request, (JSON, FLOAT32))
    body = await read_bytes(request, server.settings.server.max_body_bytes, "server.max_body_bytes")
    dim = mirror.spec.table.dim
    options: SearchOptions
    queries: NDArray[np.float32] | None
    if kind == FLOAT32:
        options, queries = read_raw(request.scope["query_string"], body, dim)
    else:
        parse_query(request, NoQuery)
        if len(body) < LARGE_JSON_BYTES:
            options, queries = read_json(body, dim)
        else:
            options, queries = await asyncio.to_thread(read_json, body, dim)
    check_limits(options, queries, dim, server.settings.server)
    return options, queries


async def _catch_up(
    server: Context, mirror: MirrorLike, options: SearchOptions, deadline_s: float
) -> None:
    """Wait for the position the caller must not miss; raise StaleIndex when it does not come."""
    lsn = parse_lsn(options.min_lsn) if options.min_lsn else 0
    if options.consistency == "strong":
        async with asyncio.timeout(max(0.0, deadline_s - perf_counter())):
            lsn = max(lsn, await asyncio.to_thread(server.source.flush_lsn))
    await server.wait_applied(mirror, lsn, max(0.0, deadline_s - perf_counter()))
