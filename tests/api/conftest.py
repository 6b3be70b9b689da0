"""An application over a real catalog in a temporary folder, fed with real change batches."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from gpu import warm_up
from server.api.app import create_app
from server.api.context import Context
from server.api.direct import direct_protocol
from server.catalog import Catalog
from server.settings import Settings
from tests.fix_feed import ITEMS, ItemFeed

DIM = ITEMS.dim


class Api:
    """The application and a client of it; ``feed`` sends what a sidecar would send."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def create(self, name: str = "items", metric: str = "l2", **more: str) -> httpx.Response:
        """Create an index over ITEMS."""
        body = {"name": name, "table": ITEMS.to_json(), "metric": metric, **more}
        return self.client.post("/v1/indexes", json=body)

    def send(self, body: bytes, name: str = "items", **headers: str) -> httpx.Response:
        """Send a change batch."""
        headers = {"content-type": "application/vnd.apache.arrow.stream"} | headers
        path = f"/v1/indexes/{name}/changes"
        return self.client.post(path, content=body, headers=headers)

    def fill(self, n_rows: int, name: str = "items", metric: str = "l2") -> ItemFeed:
        """Create an index and copy ``n_rows`` rows into it; return the feed, to go on with."""
        assert self.create(name, metric).status_code == 201
        feed = ItemFeed(n_rows)
        for body in feed.copy():
            answer = self.send(body, name)
            assert answer.status_code == 200, answer.text
        return feed

    def search(self, name: str = "items", **body: Any) -> httpx.Response:
        """Search with a JSON body."""
        return self.client.post(f"/v1/indexes/{name}/search", json=body)


@contextmanager
def _serving(context: Context, direct: bool) -> Iterator[str]:
    """Serve an application on a free port, in a thread; yield its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    http: Any = direct_protocol(context) if direct else "httptools"
    app = create_app(context.settings, context.catalog, context)
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", http=http)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextmanager
def running_api(data_dir: Path, *, direct: bool = True, **sections: Any) -> Iterator[Api]:
    """Run an application over ``data_dir``; ``sections`` are those of the settings.

    ``direct``: answer plain searches as the real server does, without the application around them.
    """
    warm_up()
    settings = Settings.model_validate(sections)
    with (
        closing(Catalog(data_dir)) as catalog,
        _serving(Context(settings, catalog), direct) as url,
        httpx.Client(base_url=url, timeout=30, trust_env=False) as client,
    ):
        while catalog.loading:
            time.sleep(0.001)
        yield Api(client)


OpenApi = Callable[..., Api]


@pytest.fixture
def open_api(tmp_path: Path) -> Iterator[OpenApi]:
    """Return a function that starts an application; its arguments are sections of the settings."""
    with ExitStack() as stack:
        yield lambda **sections: stack.enter_context(running_api(tmp_path, **sections))


@pytest.fixture
def api(open_api: OpenApi) -> Api:
    """Return an application with the settings' defaults and no index."""
    return open_api()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Return an application with the index ``items`` of 20 rows, for tests that change nothing."""
    with running_api(tmp_path_factory.mktemp("filled")) as api:
        api.fill(20)
        yield api


@pytest.fixture
def rng() -> np.random.Generator:
    """Return random numbers, the same in each run."""
    return np.random.default_rng(8)


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is one problem document with a helpful sentence; return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["type"] == f"urn:vecmirror:problem:{code}"
    assert (problem["code"], problem["status"]) == (code, status)
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["retry"] in {"never", "later", "resync"}
    assert len(problem["detail"].split()) >= 4
    assert problem["detail"].endswith(".")
    return problem
