"""From the bytes of a search request to a job: no socket, no clock but the time it began.

What a body or a query string says beside its vectors is the same in request after request: its
checked form is kept (``_SAID``), and only the vectors are read anew.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from server.errors import UnknownColumn
from server.keys import Key
from server.mirror import MirrorLike
from server.problems import InvalidRequest
from server.searching import SearchRequest, WrongDimension, check_queries
from server.sections import ServerSection

from .answers import SearchJob
from .bodies import Body, explain, float32_rows, parse_model
from .schemas import SearchBody, SearchOptions, SearchQuery

Queries = NDArray[np.float32]

#: Most vector components in one answer (64 MiB of float32) when with_vector is set.
_MAX_COMPONENTS = 1 << 24
#: Requests whose options are kept, and the longest text of them that is.
_SAID, _LONGEST_SAID_BYTES = 1024, 4096


def read_json(body: Body, dim: int) -> tuple[SearchBody, Queries | None]:
    """Return the options and the queries f32[q, dim], None for a search by an indexed row.

    Raise MalformedBody, InvalidRequest, WrongDimension or NotFinite.
    """
    quick = _one_vector(body, dim)
    if quick is not None:
        return quick
    parsed = parse_model(body, SearchBody)
    return parsed, _queries(parsed, dim)


def read_raw(query_string: bytes, body: Body, dim: int) -> tuple[SearchQuery, Queries]:
    """Return the options and the queries f32[q, dim] of a raw body; raise as ``read_json``."""
    options, queries = read_query_string(query_string), float32_rows(body, dim)
    check_queries(queries, dim)
    return options, queries


@lru_cache(maxsize=_SAID)
def read_query_string(query_string: bytes) -> SearchQuery:
    """Return the options of a query string; raise InvalidRequest, for a name given twice too."""
    pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidRequest([{"location": name, "message": "give it once"} for name in twice])
    try:
        return SearchQuery.model_validate(dict(pairs))
    except ValidationError as error:
        raise InvalidRequest(explain(error)) from None


def check_limits(
    options: SearchOptions, queries: Queries | None, dim: int, limits: ServerSection
) -> None:
    """Raise InvalidRequest where the settings allow less than is asked for."""
    n_queries = 1 if queries is None else len(queries)
    hits = options.k * n_queries
    if (
        options.timeout_ms is None
        and not options.with_vector
        and options.k <= limits.max_k
        and n_queries <= limits.max_queries
        and hits <= limits.max_results
    ):
        return
    bounds = [
        ("k", options.k, limits.max_k, "server.max_k"),
        ("vectors", n_queries, limits.max_queries, "server.max_queries"),
        ("k", hits, limits.max_results, "queries times k: server.max_results"),
        ("timeout_ms", options.timeout_ms or 0, limits.max_search_timeout_ms,
         "server.max_search_timeout_ms"),
        ("with_vector", hits * dim * options.with_vector, _MAX_COMPONENTS, "hits times dimension"),
    ]  # fmt: skip
    errors = [
        {"location": location, "message": f"at most {most} ({what})"}
        for location, asked, most, what in bounds
        if asked > most
    ]
    if errors:
        raise InvalidRequest(errors)


def job_of(
    mirror: MirrorLike,
    options: SearchOptions,
    queries: Queries | None,
    *,
    started_s: float,
    deadline_s: float,
    lag_ms: Callable[[int], float | None],
) -> SearchJob:
    """Return what the batcher runs; raise UnknownColumn or InvalidRequest."""
    body = options if isinstance(options, SearchBody) else None
    request = SearchRequest(
        queries=queries,
        like=_key(body.like) if body else None,
        k=options.k,
        filter=options.filter,
        params=_params(options),
        exact=options.exact,
        nprobe=options.nprobe,
        rerank=options.rerank,
        recall_target=options.recall_target,
    )
    return SearchJob(
        mirror=mirror,
        request=request,
        many=body is None or body.vectors is not None,
        columns=_columns(options, mirror),
        with_vector=options.with_vector,
        started_s=started_s,
        deadline_s=deadline_s,
        lag_ms=lag_ms,
    )


def _one_vector(body: Body, dim: int) -> tuple[SearchBody, Queries] | None:
    """Read what most requests are, one vector and a few options; None for anything unusual.

    Numbers are read as float64 and rounded to float32 once, as the model would have it.
    """
    try:
        said = orjson.loads(body)
        numbers = said.pop("vector")
        vector = array("f", numbers) if type(numbers) is list and len(numbers) == dim else None
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, OverflowError):
        return None
    if vector is None or _says_bool(body):
        return None
    text = orjson.dumps(said)
    try:
        options = _said(text) if len(text) <= _LONGEST_SAID_BYTES else _check_said(text)
    except ValidationError:
        return None
    queries = np.frombuffer(vector, np.float32).reshape(1, dim)
    check_queries(queries, dim)
    return options, queries


def _says_bool(body: Body) -> bool:
    """Say whether true or false may be in the body: JSON's only values that pass for numbers.

    Looking for a single letter first costs a tenth of looking for words.
    """
    return (b"u" in body and b"true" in body) or (b"s" in body and b"false" in body)


def _check_said(text: bytes) -> SearchBody:
    """Return the model of a body without its vector; raise ValidationError."""
    members = b"" if text == b"{}" else b"," + text[1:-1]
    return SearchBody.model_validate_json(b'{"vector":[0]' + members + b"}")


_said = lru_cache(maxsize=_SAID)(_check_said)


def _queries(body: SearchBody, dim: int) -> Queries | None:
    """Return f32[q, dim]; raise WrongDimension, also when the vectors differ in length."""
    vectors = [body.vector] if body.vector is not None else body.vectors
    if vectors is None:
        return None
    for vector in vectors:
        if len(vector) != dim:
            raise WrongDimension(dim, str(len(vector)))
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        queries = np.array(vectors, np.float64).astype(np.float32)
    check_queries(queries, dim)
    return queries


def _columns(options: SearchOptions, mirror: MirrorLike) -> tuple[str, ...]:
    """Return the columns wanted in the answer; raise UnknownColumn."""
    wanted = options.columns if isinstance(options, SearchBody) else _split(options)
    for name in wanted:
        if name not in mirror.spec.column_types:
            raise UnknownColumn(name)
    return tuple(dict.fromkeys(wanted))


def _split(options: SearchOptions) -> list[str]:
    assert isinstance(options, SearchQuery)
    return [name for name in options.columns.split(",") if name]


def _params(options: SearchOptions) -> list[Any] | dict[str, Any] | None:
    """Return the filter's parameters; raise InvalidRequest."""
    if isinstance(options, SearchBody):
        params = options.params
    else:
        assert isinstance(options, SearchQuery)
        params = _json_params(options.params)
    if params is not None and options.filter is None:
        raise InvalidRequest([{"location": "params", "message": "params need a filter"}])
    return params


def _json_params(text: str | None) -> list[Any] | dict[str, Any] | None:
    if text is None:
        return None
    try:
        params = orjson.loads(text)
    except orjson.JSONDecodeError:
        params = None
    if isinstance(params, list | dict):
        return params
    raise InvalidRequest([{"location": "params", "message": "give a JSON list or object"}])


def _key(like: Any) -> Key | None:
    return tuple(like) if isinstance(like, list) else like
