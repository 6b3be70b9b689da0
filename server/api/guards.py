"""Who may call what.

FastAPI's security schemes stand here for the OpenAPI document; ``check_key`` reads the key.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from server.auth import Scope

from .context import Context, context_of

_bearer = HTTPBearer(auto_error=False, description="Authorization: Bearer KEY")
_header = APIKeyHeader(name="X-API-Key", auto_error=False)

Server = Annotated[Context, Depends(context_of)]
Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
HeaderKey = Annotated[str | None, Security(_header)]


def check_key(server: Context, request: Request, needed: Scope) -> None:
    """Raise NoKey or KeyTooWeak unless the request's key has the scope ``needed``."""
    if server.keyring.is_open:
        return
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    bearer = credentials.strip() if scheme.lower() == "bearer" else ""
    server.keyring.require(bearer or request.headers.get("x-api-key"), needed)


async def may_read(server: Server, request: Request, _bearer: Bearer, _key: HeaderKey) -> None:
    """Raise NoKey or KeyTooWeak unless the caller may search and look."""
    check_key(server, request, Scope.READ)


async def may_admin(server: Server, request: Request, _bearer: Bearer, _key: HeaderKey) -> None:
    """Raise NoKey or KeyTooWeak unless the caller may change things."""
    check_key(server, request, Scope.ADMIN)
