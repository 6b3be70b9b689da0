"""Sink: the HTTP client that brings change batches to the index server.

The server answers problem+json (RFC 9457). Two of its problems are about the feed and not about
the request: ``stale-epoch`` and ``resync-required`` both mean that the table must be copied again.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

import httpx

from .changes import ChangeBatch
from .errors import ResyncNeeded, SinkError, SinkUnavailable
from .lsn import parse_lsn
from .table import TableSpec

#: A batch is written and applied within seconds; a server that needs longer is stuck.
REQUEST_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 5.0

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
        self._client = httpx.Client(
            base_url=base_url,
            transport=httpx.HTTPTransport(uds=uds),
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(REQUEST_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=False,  # A proxy for the outside world must not stand before loopback.
        )

    def indexes(self) -> list[IndexDescription]:
        """Return all indexes of the server."""
        body = self._json(self._send("GET", "/v1/indexes"))
        listed = body.get("indexes") if isinstance(body, dict) else body
        if not isinstance(listed, list):
            raise SinkError("the index server listed its indexes in an unknown way")
        return [IndexDescription.from_json(each) for each in listed]

    def describe(self, name: str) -> IndexDescription | None:
        """Return one index, None when the server has none of that name."""
        response = self._send("GET", _index_path(name), missing_is_none=True)
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        return IndexDescription.from_json(self._json(response))

    def send(self, name: str, batch: ChangeBatch, *, sync: bool = False) -> Receipt:
        """Deliver a batch; raise SinkError, SinkUnavailable or ResyncNeeded.

        ``sync`` asks the server to make even a bare watermark durable before it answers.
        """
        response = self._send(
            "POST",
            _index_path(name) + "/changes",
            content=batch.to_ipc(),
            headers={"content-type": CONTENT_TYPE},
            params={"sync": "1"} if sync else None,
        )
        body = self._json(response)
        try:
            return Receipt(
                parse_lsn(body["durable_lsn"]), parse_lsn(body["applied_lsn"]), int(body["epoch"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SinkError("the index server acknowledged a batch in an unknown way") from error

    def close(self) -> None:
        """Close the connection; a request under way in another thread fails."""
        self._client.close()

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(
        self, method: str, path: str, *, missing_is_none: bool = False, **request: Any
    ) -> httpx.Response:
        try:
            response = self._client.request(method, path, **request)
        except (httpx.TransportError, RuntimeError) as error:
            # httpx raises RuntimeError for a client that was closed by another thread.
            raise SinkUnavailable("the index server does not answer") from error
        missing = response.status_code == httpx.codes.NOT_FOUND and missing_is_none
        if response.is_success or missing:
            return response
        raise problem_error(response.status_code, _problem(response))

    @staticmethod
    def _json(response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise SinkError("the index server did not answer with JSON") from error


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
    if status == httpx.codes.CONFLICT and kind.endswith(_RESYNC_PROBLEMS):
        return ResyncNeeded(message)
    if status in _RETRY_STATUSES:
        return SinkUnavailable(message, status)
    return SinkError(message, status)


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _index_path(name: str) -> str:
    return f"/v1/indexes/{quote(name, safe='')}"
