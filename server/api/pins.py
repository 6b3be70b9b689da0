"""Pins: hold an index still at one LSN, so that it can be compared with its table row by row."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import StreamingResponse

from pgsync.lsn import format_lsn, parse_lsn
from server.pins import LEASE_S

from .bodies import ARROW_STREAM, JSON, media_type, parse_json, read_bytes
from .context import in_writer_thread
from .guards import Server, may_admin
from .openapi import body_schema, problems
from .schemas import FixBody, PinAnswer

router = APIRouter(
    prefix="/v1/indexes/{name}/pins", tags=["verification"], dependencies=[Depends(may_admin)]
)

#: Fixing waits this long for the feed to reach the position: as long as apply is held at most.
_FIX_TIMEOUT_S = LEASE_S


@router.post(
    "",
    summary="Hold an index still",
    status_code=201,
    response_model=PinAnswer,
    responses=problems(404, 409, 503),
)
async def open_pin(name: str, server: Server) -> PinAnswer:
    """Hold back changes from now on; they are journaled, not shown. Fix the pin within seconds."""
    mirror = server.catalog.get(name)
    pin = await in_writer_thread(server, mirror.pin)
    return PinAnswer(id=pin.id, applied_lsn=format_lsn(mirror.state.applied_lsn))


@router.put(
    "/{pin_id}",
    summary="Fix a pin at a position",
    response_model=PinAnswer,
    responses=problems(400, 404, 409, 413, 415, 422, 503),
    openapi_extra=body_schema(FixBody),
)
async def fix_pin(name: str, pin_id: str, request: Request, server: Server) -> PinAnswer:
    """Keep the state that holds exactly what committed before a position; changes flow again."""
    mirror = server.catalog.get(name)
    media_type(request, (JSON,))
    limit = server.settings.server.max_body_bytes
    body = await parse_json(await read_bytes(request, limit, "server.max_body_bytes"), FixBody)
    lsn = parse_lsn(body.lsn)
    pin = await asyncio.to_thread(mirror.fix, pin_id, lsn, _FIX_TIMEOUT_S)
    return PinAnswer(id=pin.id, applied_lsn=format_lsn(lsn))


@router.get(
    "/{pin_id}",
    summary="Read the rows of a fixed pin",
    response_class=Response,
    responses={
        200: {"content": {ARROW_STREAM: {"schema": {"type": "string", "format": "binary"}}}},
        **problems(404, 409, 503),
    },
)
async def read_pin(name: str, pin_id: str, server: Server) -> StreamingResponse:
    """Stream the key columns and the hash of every row as Arrow."""
    mirror = server.catalog.get(name)
    batches = await in_writer_thread(server, partial(mirror.pin_rows, pin_id))
    return StreamingResponse(arrow_stream(batches), media_type=ARROW_STREAM)


@router.delete(
    "/{pin_id}",
    summary="Let a pin go",
    status_code=204,
    responses=problems(404, 503),
)
async def release_pin(name: str, pin_id: str, server: Server) -> Response:
    """Forget the pin; if it held the index, changes flow again."""
    mirror = server.catalog.get(name)
    await in_writer_thread(server, partial(mirror.unpin, pin_id))
    return Response(status_code=204)


def arrow_stream(batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    """Yield an Arrow IPC stream of ``batches``, of which there is at least one, piece by piece."""
    sink = _Pieces()
    first = next(batches)
    with pa.ipc.new_stream(pa.PythonFile(sink, "w"), first.schema) as writer:
        writer.write_batch(first)
        yield sink.take()
        for batch in batches:
            writer.write_batch(batch)
            yield sink.take()
    yield sink.take()


class _Pieces(io.RawIOBase):
    """A file that keeps what is written until it is taken."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def writable(self) -> bool:
        """Say yes."""
        return True

    def write(self, data: Any) -> int:
        """Keep ``data``."""
        self._written.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """Return what was written since the last time."""
        taken, self._written = b"".join(self._written), []
        return taken
