"""Who may call what, as FastAPI dependencies that OpenAPI shows."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from server.auth import Scope

from .context import Context, context_of

_bearer = HTTPBearer(auto_error=False, description="Authorization: Bearer KEY")
_header = APIKeyHeader(name="X-API-Key", auto_error=False)

Server = Annotated[Context, Depends(context_of)]
Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
HeaderKey = Annotated[str | None, Security(_header)]


def _presented(bearer: HTTPAuthorizationCredentials | None, key: str | None) -> str | None:
    return bearer.credentials if bearer is not None else key


async def may_read(server: Server, bearer: Bearer, key: HeaderKey) -> None:
    """Raise NoKey or KeyTooWeak unless the caller may search and look."""
    server.keyring.require(_presented(bearer, key), Scope.READ)


async def may_admin(server: Server, bearer: Bearer, key: HeaderKey) -> None:
    """Raise NoKey or KeyTooWeak unless the caller may change things."""
    server.keyring.require(_presented(bearer, key), Scope.ADMIN)
