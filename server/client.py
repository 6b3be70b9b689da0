"""A small client of the HTTP API, for the command line, the demonstration and tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import pyarrow as pa

from pgsync.lsn import format_lsn

CONNECT_TIMEOUT_S = 5.0


class ServerUnreachable(Exception):
    """Nobody answers where the index server should be."""


class ServerRefused(Exception):
    """The server answered with a problem; ``status`` and ``problem`` are what it said."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status, self.problem = status, dict(problem)
        said = problem.get("detail") or problem.get("title") or f"HTTP status {status}"
        super().__init__(f"the index server says: {said}")


class Client:
    """Calls of one index server, over TCP (``url``) or a Unix socket (``uds``).

    Each call raises ServerUnreachable or ServerRefused. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8410",
        *,
        uds: Path | None = None,
        api_key: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self.address = f"unix:{uds}" if uds else url
        self._http = httpx.Client(
            base_url="http://vecmirror" if uds else url,
            transport=httpx.HTTPTransport(uds=str(uds)) if uds else None,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            trust_env=False,  # a proxy for the outside world must not stand before loopback
        )

    def indexes(self) -> list[dict[str, Any]]:
        """Return the descriptions of all indexes."""
        answer: dict[str, Any] = self._call("GET", "/v1/indexes").json()
        return list(answer["indexes"])

    def create(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Create an index from an IndexSpec in JSON form; return its description."""
        return self._json("POST", "/v1/indexes", json=dict(spec))

    def describe(self, name: str) -> dict[str, Any]:
        """Return the description of one index."""
        return self._json("GET", _path(name))

    def drop(self, name: str) -> None:
        """Remove an index and its files."""
        self._call("DELETE", _path(name))

    def search(self, name: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Search; ``request`` is the body of the HTTP call, ``min_lsn`` may be an int."""
        body = dict(request)
        if isinstance(body.get("min_lsn"), int):
            body["min_lsn"] = format_lsn(body["min_lsn"])
        return self._json("POST", _path(name, "search"), json=body)

    def train(self, name: str) -> dict[str, Any]:
        """Start background training."""
        return self._json("POST", _path(name, "train"))

    def ready(self) -> bool:
        """Tell whether the server is reachable and ready."""
        try:
            return self._http.get("/readyz").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def alive(self) -> bool:
        """Tell whether the server answers at all."""
        try:
            return self._http.get("/livez").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def open_pin(self, name: str) -> dict[str, Any]:
        """Hold back changes of an index from now on."""
        return self._json("POST", _path(name, "pins"))

    def fix_pin(self, name: str, pin: str, lsn: int) -> dict[str, Any]:
        """Fix a pin at ``lsn``: the state that holds exactly what committed up to there."""
        return self._json("PUT", _path(name, "pins", pin), json={"lsn": format_lsn(lsn)})

    def read_pin(self, name: str, pin: str) -> pa.Table:
        """Return the key and hash columns of every row of the pinned state."""
        with pa.ipc.open_stream(self._call("GET", _path(name, "pins", pin)).content) as reader:
            return reader.read_all()

    def release_pin(self, name: str, pin: str) -> None:
        """Let changes flow again."""
        self._call("DELETE", _path(name, "pins", pin))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._call(method, path, **request).json()
        return answer

    def _call(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise ServerUnreachable(
                f"no index server answers at {self.address} ({type(error).__name__}); "
                "start one with: vecmirror serve"
            ) from error
        if response.is_success:
            return response
        try:
            problem = response.json()
        except ValueError:
            problem = {}
        raise ServerRefused(response.status_code, problem if isinstance(problem, dict) else {})


def _path(name: str, *parts: str) -> str:
    return "/".join(["/v1/indexes", *(quote(part, safe="") for part in (name, *parts))])
