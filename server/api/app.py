"""The HTTP application: routes, error answers, start and stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from time import perf_counter

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from gpu import BackendError, warm_up
from server.catalog import CatalogLike
from server.problems import (
    KINDS,
    InvalidRequest,
    MalformedBody,
    NoRoute,
    RequestError,
    WrongMethod,
)
from server.settings import Settings
from server.sql.port import SqlPort

from . import changes, docs_page, health, indexes, openapi, pins, search
from .context import Context
from .envelope import Envelope
from .lane import ExpressLane, expected_problem, nobody

log = structlog.get_logger("vecmirror.server")

#: Seconds that SQL statements may still run when the HTTP port has ended: by then they had some.
_SQL_GRACE_S = 5

_DESCRIPTION = (
    "Searches live mirrors of Postgres vector columns. Every error is an RFC 9457 problem document "
    "with a detail that says what to do."
)


def create_app(
    settings: Settings,
    catalog: CatalogLike,
    context: Context | None = None,
    sql_port: SqlPort | None = None,
) -> ASGIApp:
    """Return the application over ``catalog``, which is loaded in the background at startup.

    ``sql_port`` is open while the application runs.

    The application closes its context at shutdown; the catalog stays open, for its owner.
    """
    context = context or Context(settings, catalog)
    app = FastAPI(
        title="Vecmirror",
        version=version("vecmirror"),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
    )
    app.state.context, app.state.sql_port = context, sql_port
    for module in (search, indexes, changes, pins, health, docs_page):
        app.include_router(module.router)
    _register(app)
    openapi.install(app)
    return Envelope(ExpressLane(app, context), context.metrics)


def _register(app: FastAPI) -> None:
    """Answer every error in one form, whoever raises it."""
    for kind in KINDS:
        app.add_exception_handler(kind, _answer_problem)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(Exception, _answer_problem)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the catalog beside the first requests; at the end let running work finish."""
    context: Context = app.state.context
    sql_port: SqlPort | None = app.state.sql_port
    loading = asyncio.create_task(asyncio.to_thread(_load, context))
    if sql_port is not None:
        await sql_port.start()
    try:
        yield
    finally:
        if sql_port is not None:
            await sql_port.stop(min(_SQL_GRACE_S, context.settings.server.shutdown_grace_s))
        await loading
        await asyncio.to_thread(context.close)


def _load(context: Context) -> None:
    started_s = perf_counter()
    try:
        context.catalog.load()
    except Exception:
        log.exception("the catalog could not be loaded")
        context.load_failed = True
        return
    log.info("catalog loaded", took_s=round(perf_counter() - started_s, 3))
    try:
        took_s = warm_up(context.catalog.backend)
    except BackendError:
        log.exception("the search kernels cannot be compiled or run")
        context.load_failed = True
        return
    context.warm = True
    log.info("search kernels ready", took_s=round(took_s, 3))


async def _answer_problem(request: Request, error: Exception) -> Response:
    return expected_problem(error, request)


async def _answer_http(request: Request, error: Exception) -> Response:
    """Answer what Starlette and FastAPI raise by themselves: no route, wrong method."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    known: dict[int, RequestError] = {
        404: NoRoute(f"there is no call {path[:200]!r}; GET /docs lists the calls there are"),
        405: WrongMethod("use a method that the Allow header names"),
    }
    response = await _answer_problem(request, known.get(error.status_code, MalformedBody()))
    response.headers.update(error.headers or {})
    return response


async def _answer_nobody(request: Request, error: Exception) -> Response:
    """Note that the client went away in the middle of its body."""
    return nobody()


async def _answer_validation(request: Request, error: Exception) -> Response:
    """Answer for parameters that FastAPI itself reads."""
    assert isinstance(error, RequestValidationError)
    errors = [
        {"location": ".".join(str(part) for part in found["loc"]), "message": found["msg"]}
        for found in error.errors()
    ]
    return await _answer_problem(request, InvalidRequest(errors))
