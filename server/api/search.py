"""POST /v1/indexes/{name}/search: from body to job, from job to bytes."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Depends, Request, Response
from numpy.typing import NDArray

from pgsync.lsn import parse_lsn
from server.errors import UnknownColumn, UnknownIndex
from server.keys import Key
from server.mirror import MirrorLike
from server.problems import InvalidRequest, SearchTimeout, kind_of
from server.searching import SearchRequest, WrongDimension, check_queries
from server.sections import ServerSection

from .answers import SearchJob
from .bodies import FLOAT32, JSON, float32_rows, media_type, parse_json, parse_query, read_bytes
from .context import Context
from .guards import Server, may_read
from .openapi import body_schema, problems, query_schema
from .schemas import NoQuery, SearchAnswerBody, SearchBody, SearchOptions, SearchQuery

#: Most vector components in one answer (64 MiB of float32) when with_vector is set.
_MAX_COMPONENTS = 1 << 24

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
            server.metrics.searches.labels(name, outcome).inc()
            server.metrics.search_duration.labels(name).observe(perf_counter() - started_s)


async def _search(name: str, request: Request, server: Context, started_s: float) -> bytes:
    mirror = server.catalog.get(name)
    options, queries = await _read(request, server, mirror)
    limit_ms = options.timeout_ms or server.settings.server.search_timeout_ms
    deadline_s = started_s + limit_ms / 1000
    try:
        await _catch_up(server, mirror, options, deadline_s)
        job = _job(server, mirror, options, queries, started_s, deadline_s)
        lane = None if job.request.lane is None else (id(mirror), job.request.lane)
        async with asyncio.timeout(max(0.0, deadline_s - perf_counter())):
            return await server.batcher.submit(lane, job, 1 if queries is None else len(queries))
    except TimeoutError:
        raise SearchTimeout(
            f"the search did not end within {limit_ms} ms: allow more with timeout_ms, "
            "or ask for fewer hits, lists or queries"
        ) from None


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
        options, queries = parse_query(request, SearchQuery), float32_rows(body, dim)
    else:
        parse_query(request, NoQuery)
        options = parsed = await parse_json(body, SearchBody)
        queries = _json_queries(parsed, dim)
    _check_limits(options, 1 if queries is None else len(queries), dim, server.settings.server)
    if queries is not None:
        check_queries(queries, dim)
    return options, queries


def _json_queries(body: SearchBody, dim: int) -> NDArray[np.float32] | None:
    """Return f32[q, dim]; raise WrongDimension, also when the vectors differ in length."""
    vectors = [body.vector] if body.vector is not None else body.vectors
    if vectors is None:
        return None
    for vector in vectors:
        if len(vector) != dim:
            raise WrongDimension(dim, str(len(vector)))
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        return np.array(vectors, np.float64).astype(np.float32)


def _check_limits(options: SearchOptions, n_queries: int, dim: int, limits: ServerSection) -> None:
    """Raise InvalidRequest where the settings allow less than is asked for."""
    hits = options.k * n_queries
    bounds = [
        ("k", options.k, limits.max_k, "server.max_k"),
        ("vectors", n_queries, limits.max_queries, "server.max_queries"),
        ("k", hits, limits.max_results, "queries times k: server.max_results"),
        ("timeout_ms", options.timeout_ms or 0, limits.max_search_timeout_ms,
         "server.max_search_timeout_ms"),
        ("with_vector", hits * dim * options.with_vector, _MAX_COMPONENTS, "hits times dimension"),
    ]  # fmt: skip
    errors = [
        {"location": location, "message": f"at most {most} ({what})"}
        for location, asked, most, what in bounds
        if asked > most
    ]
    if errors:
        raise InvalidRequest(errors)


async def _catch_up(
    server: Context, mirror: MirrorLike, options: SearchOptions, deadline_s: float
) -> None:
    """Wait for the position the caller must not miss; raise StaleIndex when it does not come."""
    lsn = parse_lsn(options.min_lsn) if options.min_lsn else 0
    if options.consistency == "strong":
        async with asyncio.timeout(max(0.0, deadline_s - perf_counter())):
            lsn = max(lsn, await asyncio.to_thread(server.source.flush_lsn))
    await server.wait_applied(mirror, lsn, max(0.0, deadline_s - perf_counter()))


def _job(
    server: Context,
    mirror: MirrorLike,
    options: SearchOptions,
    queries: NDArray[np.float32] | None,
    started_s: float,
    deadline_s: float,
) -> SearchJob:
    body = options if isinstance(options, SearchBody) else None
    columns = _columns(options, mirror)
    request = SearchRequest(
        queries=queries,
        like=_key(body.like) if body else None,
        k=options.k,
        filter=options.filter,
        params=_params(options),
        exact=options.exact,
        nprobe=options.nprobe,
        rerank=options.rerank,
        recall_target=options.recall_target,
    )
    return SearchJob(
        mirror=mirror,
        request=request,
        many=body is None or body.vectors is not None,
        columns=columns,
        with_vector=options.with_vector,
        started_s=started_s,
        deadline_s=deadline_s,
        lag_ms=lambda applied_lsn: server.lag_ms(mirror.spec.name, applied_lsn),
    )


def _columns(options: SearchOptions, mirror: MirrorLike) -> tuple[str, ...]:
    """Return the columns wanted in the answer; raise UnknownColumn."""
    wanted = options.columns if isinstance(options, SearchBody) else _split(options)
    for name in wanted:
        if name not in mirror.spec.column_types:
            raise UnknownColumn(name)
    return tuple(dict.fromkeys(wanted))


def _split(options: SearchOptions) -> list[str]:
    assert isinstance(options, SearchQuery)
    return [name for name in options.columns.split(",") if name]


def _params(options: SearchOptions) -> list[Any] | dict[str, Any] | None:
    """Return the filter's parameters; raise InvalidRequest."""
    if isinstance(options, SearchBody):
        params = options.params
    else:
        assert isinstance(options, SearchQuery)
        params = _json_params(options.params)
    if params is not None and options.filter is None:
        raise InvalidRequest([{"location": "params", "message": "params need a filter"}])
    return params


def _json_params(text: str | None) -> list[Any] | dict[str, Any] | None:
    if text is None:
        return None
    try:
        params = orjson.loads(text)
    except orjson.JSONDecodeError:
        params = None
    if isinstance(params, list | dict):
        return params
    raise InvalidRequest([{"location": "params", "message": "give a JSON list or object"}])


def _key(like: Any) -> Key | None:
    return tuple(like) if isinstance(like, list) else like
