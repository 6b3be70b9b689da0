"""Who may call what.

FastAPI's security schemes stand here for the OpenAPI document; ``check_key`` reads the key.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers

from server.auth import Scope

from .context import Context, context_of

_bearer = HTTPBearer(auto_error=False, description="Authorization: Bearer KEY")
_header = APIKeyHeader(name="X-API-Key", auto_error=False)

Server = Annotated[Context, Depends(context_of)]
Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
HeaderKey = Annotated[str | None, Security(_header)]


def check_key(server: Context, headers: Headers, needed: Scope) -> None:
    """Raise NoKey or KeyTooWeak unless the key in a request's headers has the scope ``needed``."""
    if server.keyring.is_open:
        return
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    bearer = credentials.strip() if scheme.lower() == "bearer" else ""
    server.keyring.require(bearer or headers.get("x-api-key"), needed)


async def may_read(server: Server, request: Request, _bearer: Bearer, _key: HeaderKey) -> None:
    """Raise NoKey or KeyTooWeak unless the caller may search and look."""
    check_key(server, request.headers, Scope.READ)


async def may_admin(server: Server, request: Request, _bearer: Bearer, _key: HeaderKey) -> None:
    """Raise NoKey or KeyTooWeak unless the caller may change things."""
    check_key(server, request.headers, Scope.ADMIN)
