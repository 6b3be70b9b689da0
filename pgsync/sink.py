"""Sink: the HTTP client that brings change batches to the index server.

The server answers problem+json (RFC 9457). Two of its problems are about the feed and not about
the request: ``stale-epoch`` and ``resync-required`` both mean that the table must be copied again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

from .changes import ChangeBatch
from .errors import ResyncNeeded, SinkError, SinkUnavailable
from .lsn import parse_lsn
from .table import TableSpec
from .transport import HttpConnection, Meanwhile, Response

CONTENT_TYPE = "application/vnd.apache.arrow.stream"

_RESYNC_PROBLEMS = ("resync-required", "stale-epoch")

#: Overload, proxies without a server behind them, and a server that is loading.
_RETRY_STATUSES = frozenset({408, 429, 502, 503, 504, 507})


@dataclass(frozen=True, slots=True)
class IndexDescription:
    """The part of ``GET /v1/indexes/{name}`` that the sidecar goes by."""

    name: str
    phase: str
    epoch: int
    durable_lsn: int
    applied_lsn: int
    system_id: str | None
    table: TableSpec
    publication: str | None
    slot: str | None
    database: str | None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> IndexDescription:
        """Read a description; raise SinkError when it is not one."""
        try:
            spec = data["spec"]
            return cls(
                name=str(data["name"] if "name" in data else spec["name"]),
                phase=str(data["phase"]),
                epoch=int(data["epoch"]),
                durable_lsn=parse_lsn(data["durable_lsn"]),
                applied_lsn=parse_lsn(data["applied_lsn"]),
                system_id=data["system_id"],
                table=TableSpec.from_json(spec["table"]),
                publication=spec["publication"],
                slot=spec["slot"],
                database=spec.get("database"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SinkError("the index server described an index in an unknown way") from error


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a batch: ``durable_lsn`` is fsynced there and may be told to Postgres."""

    durable_lsn: int
    applied_lsn: int
    epoch: int


class Sink:
    """A connection to one index server. Use one for each thread."""

    def __init__(self, server: str, api_key: str | None = None, *, uds: str | None = None) -> None:
        """Connect to ``http://host:port``, or to a Unix socket.

        The socket is ``uds``, or the path of ``http+unix:///path/of/socket``.
        """
        base_url, uds = split_server(server, uds)
        self._http = HttpConnection(base_url, api_key or None, uds)

    def indexes(self) -> list[IndexDescription]:
        """Return all indexes of the server."""
        body = _json(_accepted(self._http.get("/v1/indexes")))
        listed = body.get("indexes") if isinstance(body, dict) else body
        if not isinstance(listed, list):
            raise SinkError("the index server listed its indexes in an unknown way")
        return [IndexDescription.from_json(each) for each in listed]

    def describe(self, name: str) -> IndexDescription | None:
        """Return one index, None when the server has none of that name."""
        response = self._http.get(_index_path(name))
        if response.status == HTTPStatus.NOT_FOUND:
            return None
        return IndexDescription.from_json(_json(_accepted(response)))

    def send(
        self,
        name: str,
        batch: ChangeBatch,
        *,
        sync: bool = False,
        meanwhile: Meanwhile | None = None,
    ) -> Receipt:
        """Deliver a batch; raise SinkError, SinkUnavailable or ResyncNeeded.

        ``sync`` asks the server to make even a bare watermark durable before it answers.
        ``meanwhile`` is called while the server keeps us waiting; it must not raise.
        """
        path = f"{_index_path(name)}/changes{'?sync=1' if sync else ''}"
        content = memoryview(batch.to_ipc_buffer())
        response = self._http.post(path, CONTENT_TYPE, content, meanwhile)
        body = _json(_accepted(response))
        try:
            return Receipt(
                parse_lsn(body["durable_lsn"]), parse_lsn(body["applied_lsn"]), int(body["epoch"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SinkError("the index server acknowledged a batch in an unknown way") from error

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def split_server(server: str, uds: str | None = None) -> tuple[str, str | None]:
    """Return (base URL, socket path); ``http+unix:///path`` names a Unix socket."""
    scheme = "http+unix://"
    if server.startswith(scheme):
        return "http://vecmirror", unquote(server[len(scheme) :])
    return server.rstrip("/"), uds


def problem_error(status: int, problem: dict[str, Any]) -> Exception:
    """Return the error that a problem+json answer stands for (RFC 9457)."""
    kind = str(problem.get("type", ""))
    detail = str(problem.get("detail") or problem.get("title") or "no reason given")
    message = f"the index server answered {status}: {detail}"
    if status == HTTPStatus.CONFLICT and kind.endswith(_RESYNC_PROBLEMS):
        return ResyncNeeded(message)
    if status in _RETRY_STATUSES:
        return SinkUnavailable(message, status)
    return SinkError(message, status)


def _accepted(response: Response) -> Response:
    """Return a successful answer; raise what any other one stands for."""
    if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
        raise problem_error(response.status, _problem(response))
    return response


def _json(response: Response) -> Any:
    try:
        return json.loads(response.body)
    except ValueError as error:
        raise SinkError("the index server did not answer with JSON") from error


def _problem(response: Response) -> dict[str, Any]:
    try:
        body = json.loads(response.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _index_path(name: str) -> str:
    return f"/v1/indexes/{quote(name, safe='')}"
