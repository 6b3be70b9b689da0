"""What OpenAPI says beyond what FastAPI finds out: raw bodies, query strings, problems."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .envelope import PROBLEM_JSON
from .schemas import CreateBody, FixBody, ProblemBody, SearchAnswerBody, SearchBody

_REF = "#/components/schemas/{model}"

_MODELS: list[tuple[type[BaseModel], Literal["validation"]]] = [
    (SearchBody, "validation"),
    (CreateBody, "validation"),
    (FixBody, "validation"),
    (SearchAnswerBody, "validation"),
    (ProblemBody, "validation"),
]

_STATUSES = {
    400: "The body cannot be read.",
    401: "An API key is needed.",
    403: "The API key may not do that.",
    404: "There is no such index, row or pin.",
    409: "It does not fit the present state.",
    413: "The body is too large.",
    415: "The body has a type this call lacks.",
    422: "The request is not valid.",
    429: "The server is busy; Retry-After says when to try again.",
    500: "The server failed.",
    503: "Not ready.",
    504: "It took too long.",
    507: "No room left.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the problem answers of a call; 401, 403, 422 and 500 belong to every call."""
    schema = {"$ref": _REF.format(model=ProblemBody.__name__)}
    return {
        status: {
            "description": _STATUSES[status],
            "content": {PROBLEM_JSON: {"schema": schema}},
        }
        for status in sorted({*statuses, 401, 403, 422, 500})
    }


def body_schema(
    model: type[BaseModel] | None, raw_type: str | None = None, raw_says: str = ""
) -> dict[str, Any]:
    """Return the request body of a call: JSON of ``model``, bytes of ``raw_type``, or either."""
    content: dict[str, Any] = {}
    if model is not None:
        content["application/json"] = {"schema": {"$ref": _REF.format(model=model.__name__)}}
    if raw_type is not None:
        raw = {"type": "string", "format": "binary", "description": raw_says}
        content[raw_type] = {"schema": raw}
    return {"requestBody": {"required": True, "content": content}}


def query_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the query parameters of a call whose query string is read by ``parse_query``."""
    properties = model.model_json_schema()["properties"]
    return {
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": schema.get("description", ""),
                "schema": {key: value for key, value in schema.items() if key != "description"},
            }
            for name, schema in properties.items()
        ]
    }


def install(app: FastAPI) -> None:
    """Make ``app.openapi`` return the whole document, made once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    _, own = models_json_schema(_MODELS, ref_template=_REF)
    schemas.update(own["$defs"])
    return document
