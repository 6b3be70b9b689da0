"""POST /v1/indexes/{name}/changes: the feed of an index."""

from __future__ import annotations

import asyncio
from time import monotonic, perf_counter

import orjson
import pyarrow as pa
from fastapi import APIRouter, Depends, Request, Response

from pgsync.lsn import format_lsn
from server.acks import Ack
from server.mirror import MirrorLike
from server.problems import kind_of

from .bodies import ARROW_STREAM, JSON, media_type, parse_query, read_bytes
from .context import Context
from .guards import Server, may_admin
from .openapi import body_schema, problems, query_schema
from .schemas import AckBody, ChangesQuery

router = APIRouter(tags=["feed"], dependencies=[Depends(may_admin)])


@router.post(
    "/v1/indexes/{name}/changes",
    summary="Take a batch of changes",
    response_model=AckBody,
    responses=problems(400, 404, 409, 413, 415, 422, 503, 507),
    openapi_extra={
        **body_schema(None, ARROW_STREAM, "A change batch: one Arrow IPC stream."),
        **query_schema(ChangesQuery),
    },
)
async def changes(name: str, request: Request, server: Server) -> Response:
    """Journal, fsync and apply a change batch; the answer says what may be confirmed to Postgres.

    A batch that arrives twice is applied once.
    """
    mirror = server.catalog.get(name)
    arrived_s, started_s, outcome = monotonic(), perf_counter(), "cancelled"
    try:
        ack = await _take(mirror, request, server, arrived_s)
        outcome = "ok"
    except Exception as error:
        outcome = kind_of(error).code
        raise
    finally:
        server.metrics.change_batches.labels(name, outcome).inc()
        server.metrics.change_duration.labels(name).observe(perf_counter() - started_s)
    answer = {
        "durable_lsn": format_lsn(ack.durable_lsn),
        "applied_lsn": format_lsn(ack.applied_lsn),
        "epoch": ack.epoch,
    }
    return Response(orjson.dumps(answer), media_type=JSON)


async def _take(mirror: MirrorLike, request: Request, server: Context, arrived_s: float) -> Ack:
    """Read the body and hand it to the mirror in a thread; note what the feed said."""
    media_type(request, (ARROW_STREAM,))
    sync = parse_query(request, ChangesQuery).sync
    limit_bytes = server.settings.server.max_changes_body_bytes
    body = memoryview(await read_bytes(request, limit_bytes, "server.max_changes_body_bytes"))
    loop, name = asyncio.get_running_loop(), mirror.spec.name
    ack, source_lsn = await loop.run_in_executor(
        server.writers, lambda: (mirror.submit(body, sync=sync), _source_lsn(body))
    )
    server.metrics.change_bytes.labels(name).inc(len(body))
    server.feeds.heard(
        name,
        source_lsn=source_lsn,
        durable_lsn=ack.durable_lsn,
        applied_lsn=ack.applied_lsn,
        sent_at_s=arrived_s,
    )
    return ack


def _source_lsn(body: memoryview) -> int:
    """Return the batch's source_lsn: the mirror took the batch, so it is there."""
    metadata = pa.ipc.read_schema(pa.py_buffer(body)).metadata or {}
    return int(metadata[b"vecmirror.source_lsn"])
