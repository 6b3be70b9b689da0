"""/livez, /readyz, /healthz and /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST

from gpu.cuda_backend import CudaBackend
from server.mirror import MirrorLike

from .context import Context
from .guards import Server, may_read
from .openapi import problems
from .schemas import Health

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Is the process alive?")
@router.get("/healthz", include_in_schema=False)
async def livez() -> Health:
    """Answer as soon as the process serves, whatever its indexes do. Needs no key."""
    return Health(status="ok")


@router.get(
    "/readyz",
    summary="Can it answer searches with fresh rows?",
    responses={503: {"model": Health, "description": "Not ready; the reasons say why."}},
)
async def readyz(server: Server, response: Response) -> Health:
    """Say no while an index loads, is copied, has failed, lags or hears nothing. Needs no key."""
    reasons = not_ready(server)
    if not reasons:
        return Health(status="ok")
    response.status_code = 503
    return Health(status="not-ready", reasons=reasons)


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    dependencies=[Depends(may_read)],
    response_class=Response,
    responses={
        200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}},
        **problems(),
    },
)
async def metrics(server: Server) -> Response:
    """Return all figures in Prometheus' text format."""
    return Response(server.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def not_ready(server: Context) -> list[str]:
    """Return every reason why the server is not ready; none: it is."""
    reasons = []
    backend = server.catalog.backend
    if isinstance(backend, CudaBackend) and backend.lost is not None:
        reasons.append(f"the card is lost: {backend.lost}")
    if server.load_failed:
        reasons.append("the catalog or the kernels could not be loaded; the log says why")
    elif server.catalog.loading:
        reasons.append("the catalog is still loading")
    elif not server.warm:
        reasons.append("the search kernels are being compiled")
    for mirror in server.catalog.mirrors():
        reasons += [f"{mirror.spec.name}: {reason}" for reason in _reasons(server, mirror)]
    return reasons


def _reasons(server: Context, mirror: MirrorLike) -> list[str]:
    if mirror.failed is not None:
        return [f"failed: {mirror.failed}"]
    state, limits = mirror.state, server.settings.ready
    phases = {
        "new": "waits for its first copy; start the sidecar with vecmirror sync",
        "copying": "the table is being copied",
        "resync": "waits for a new copy of the table",
    }
    if state.phase in phases:
        return [phases[state.phase]]
    fresh = server.feeds.of(mirror.spec.name, state.applied_lsn)
    by_hand = mirror.spec.slot is None  # whoever feeds it need not come again
    if fresh is None:
        return [] if by_hand else ["the sidecar has not been heard since the server started"]
    reasons = []
    if fresh.lag_bytes > limits.max_lag_bytes:
        reasons.append(f"{fresh.lag_bytes} bytes behind the source")
    if not by_hand and fresh.silence_s > limits.max_silence_s:
        reasons.append(f"the sidecar has been silent for {fresh.silence_s:.0f} s")
    return reasons
