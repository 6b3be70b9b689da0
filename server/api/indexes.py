"""The life of indexes: list, create, describe, drop, train, snapshot."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from pgsync.lsn import format_lsn
from pgsync.table import TableSpec
from server.problems import InvalidRequest
from server.sections import IndexSection
from server.spec import BuildParams, IndexSpec

from .bodies import JSON, media_type, parse_json, read_bytes
from .context import in_writer_thread
from .guards import Server, may_admin, may_read
from .openapi import body_schema, problems
from .schemas import CreateBody, IndexBody, IndexList, SnapshotBody, TrainBody

router = APIRouter(tags=["indexes"])


@router.get(
    "/v1/indexes",
    summary="List the indexes",
    dependencies=[Depends(may_read)],
    responses=problems(),
)
async def list_indexes(server: Server) -> IndexList:
    """Describe every index, by name. While the server starts, some may be missing still."""
    return IndexList(indexes=[mirror.describe() for mirror in server.catalog.mirrors()])


@router.post(
    "/v1/indexes",
    summary="Create an index",
    status_code=201,
    dependencies=[Depends(may_admin)],
    response_model=IndexBody,
    responses=problems(400, 409, 413, 415, 422, 503, 507),
    openapi_extra=body_schema(CreateBody),
)
async def create_index(request: Request, response: Response, server: Server) -> dict[str, Any]:
    """Make an empty index, which its feed fills. `vecmirror attach` calls this."""
    media_type(request, (JSON,))
    body = await read_bytes(request, server.settings.server.max_body_bytes, "server.max_body_bytes")
    spec = index_spec(await parse_json(body, CreateBody), server.settings.index)
    mirror = await in_writer_thread(server, lambda: server.catalog.create(spec))
    response.headers["Location"] = f"/v1/indexes/{spec.name}"
    return mirror.describe()


@router.get(
    "/v1/indexes/{name}",
    summary="Describe an index",
    dependencies=[Depends(may_read)],
    response_model=IndexBody,
    responses=problems(404, 503),
)
async def describe_index(name: str, server: Server) -> dict[str, Any]:
    """Tell what the index is, how far it has come, and how it is doing."""
    return server.catalog.get(name).describe()


@router.delete(
    "/v1/indexes/{name}",
    summary="Drop an index",
    status_code=204,
    dependencies=[Depends(may_admin)],
    responses=problems(404, 503),
)
async def drop_index(name: str, server: Server) -> Response:
    """Forget the index and its files. The rows stay in Postgres, and so does the slot."""
    await in_writer_thread(server, lambda: server.catalog.drop(name))
    server.feeds.forget(name)
    return Response(status_code=204)


@router.post(
    "/v1/indexes/{name}/train",
    summary="Train an index",
    status_code=202,
    dependencies=[Depends(may_admin)],
    responses=problems(404, 503),
)
async def train_index(name: str, server: Server) -> TrainBody:
    """Start training in the background; searches go on, and switch over when it is done."""
    mirror = server.catalog.get(name)
    return TrainBody(started=await in_writer_thread(server, mirror.start_training))


@router.post(
    "/v1/indexes/{name}/snapshot",
    summary="Write a snapshot",
    dependencies=[Depends(may_admin)],
    responses=problems(404, 503, 507),
)
async def snapshot_index(name: str, server: Server) -> SnapshotBody:
    """Write the index to disk now, so that a restart needs no journal before it."""
    mirror = server.catalog.get(name)
    return SnapshotBody(lsn=format_lsn(await in_writer_thread(server, mirror.snapshot)))


def index_spec(body: CreateBody, defaults: IndexSection) -> IndexSpec:
    """Return the spec a request describes; raise InvalidRequest or BadName."""
    params = body.params
    raw_dtype = params.raw_dtype or (None if defaults.raw_dtype == "auto" else defaults.raw_dtype)
    try:
        return IndexSpec(
            name=body.name,
            table=TableSpec.from_json(body.table.model_dump(by_alias=True)),
            metric=body.metric or defaults.metric,
            params=BuildParams(
                raw_dtype=raw_dtype,
                code_bits=params.code_bits or defaults.code_bits,
                m=params.m,
                nlist=params.nlist,
                train_from_rows=params.train_from_rows or defaults.train_from_rows,
                seed=params.seed,
            ),
            publication=body.publication,
            slot=body.slot,
            database=body.database,
        )
    except (TypeError, KeyError, ValueError) as error:
        raise InvalidRequest([{"location": "table", "message": str(error)}]) from error
