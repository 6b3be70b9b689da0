"""Reads request bodies: type, size, shape, each with its own error.

Routes read their bodies through these functions and not through FastAPI's parameters, so that large
bodies go to their parser as bytes, once, and every error is a problem that says what to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypeAlias, TypeVar

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from server.problems import BodyTooLarge, InvalidRequest, MalformedBody, UnsupportedBody
from server.searching import WrongDimension

JSON = "application/json"
FLOAT32 = "application/octet-stream"
ARROW_STREAM = "application/vnd.apache.arrow.stream"

#: From this size on, parsing JSON would hold up the event loop for milliseconds.
LARGE_JSON_BYTES = 64 << 10

Model = TypeVar("Model", bound=BaseModel)

#: A whole body; one of several pieces is a bytearray, that they were appended to.
Body: TypeAlias = bytes | bytearray


def media_type(request: Request, allowed: Iterable[str]) -> str:
    """Return the body's media type; a missing one counts as the first of ``allowed``.

    Raise UnsupportedBody for another.
    """
    allowed = tuple(allowed)
    given = request.headers.get("content-type", allowed[0]).partition(";")[0].strip().lower()
    if given not in allowed:
        raise UnsupportedBody(f"send the body with Content-Type {' or '.join(allowed)}")
    return given


async def read_bytes(request: Request, limit_bytes: int, setting: str) -> Body:
    """Return the whole body; raise BodyTooLarge as soon as it is longer than the limit.

    A Content-Length that is too large is refused before anything is read. One that is not is no
    reason to take memory for it yet: the bytes may never come.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit_bytes:
        raise BodyTooLarge(limit_bytes, setting)
    body: Body = b""
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit_bytes:
            raise BodyTooLarge(limit_bytes, setting)
        if not body:
            body = chunk  # mostly the only one
        elif chunk:
            body = bytearray(body) if isinstance(body, bytes) else body
            body += chunk
    return body


def parse_model(body: Body, model: type[Model]) -> Model:
    """Return ``body`` as ``model``; raise MalformedBody or InvalidRequest."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        if found[0]["type"] == "json_invalid":
            reason = found[0]["msg"].partition(": ")[2]
            raise MalformedBody(f"the body is not JSON ({reason}); send a JSON object") from None
        raise InvalidRequest(explain(error)) from None


async def parse_json(body: Body, model: type[Model]) -> Model:
    """Return ``body`` as ``model``; raise MalformedBody or InvalidRequest."""
    if len(body) < LARGE_JSON_BYTES:
        return parse_model(body, model)
    return await asyncio.to_thread(parse_model, body, model)


def parse_query(request: Request, model: type[Model]) -> Model:
    """Return the query string as ``model``; raise InvalidRequest, for a name given twice too."""
    if not request.scope["query_string"]:
        return model()
    names = [name for name, _ in request.query_params.multi_items()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidRequest([{"location": name, "message": "give it once"} for name in twice])
    try:
        return model.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise InvalidRequest(explain(error)) from None


def float32_rows(body: Body, dim: int) -> NDArray[np.float32]:
    """Return the little-endian rows of a raw body as f32[q, dim]; raise WrongDimension."""
    if not body or len(body) % (4 * dim):
        raise WrongDimension(dim, f"{len(body)} bytes, not a multiple of {4 * dim}")
    return np.frombuffer(body, "<f4").reshape(-1, dim)


def explain(error: ValidationError) -> list[dict[str, str]]:
    """Return where each mistake is and what is expected there; never the value that was sent."""
    return [
        {
            "location": ".".join(str(part) for part in found["loc"]) or "body",
            "message": _message(found),
        }
        for found in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def _message(found: Any) -> str:
    if found["type"] == "extra_forbidden":
        return "there is no such member; check its spelling"
    text = str(found["msg"]).removeprefix("Value error, ")
    return text[:1].lower() + text[1:]
