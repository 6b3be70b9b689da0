"""The server as a process: both sockets, signals, exit statuses, log lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from server.catalog import Catalog
from server.main import CannotListen, listening
from server.sections import ServerSection
from tests.api.conftest import Api
from tests.fix_postgres import free_port

_START = "import sys; from server.main import serve; from server.settings import load_settings; "
_START += "sys.exit(serve(load_settings().settings))"

KEY = {"authorization": "Bearer hunter2"}


class ServerProcess:
    """A server with its data in ``folder``; ``lines`` are what it logged, when it has ended."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.url, self.uds = f"http://127.0.0.1:{free_port()}", folder / "server.sock"
        mine = {
            "VECMIRROR_SERVER__DATA_DIR": str(folder / "data"),
            "VECMIRROR_SERVER__PORT": self.url.rpartition(":")[2],
            "VECMIRROR_SERVER__UDS": str(self.uds),
            "VECMIRROR_SQL__PORT": "0",
            **{f"VECMIRROR_{key}": value for key, value in settings.items()},
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START],
            env={**os.environ, **mine},
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[dict[str, Any]] = []

    def wait_alive(self) -> None:
        """Wait until the server answers."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{self.url}/livez", trust_env=False)
            except httpx.TransportError:
                assert self.process.poll() is None, "the server ended at start"
                time.sleep(0.05)
            else:
                return
        pytest.fail("the server does not answer")

    def end(self, number: signal.Signals | None = None) -> int:
        """Send a signal, wait for the end, and return the exit status."""
        if number is not None:
            self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=30)
        self.lines = [json.loads(line) for line in errors.splitlines()]
        return self.process.returncode


@contextmanager
def _process(folder: Path, **settings: str) -> Iterator[ServerProcess]:
    server = ServerProcess(folder, **settings)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()


def _tcp(server: ServerProcess) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=30, trust_env=False, headers=KEY)


def _unix(server: ServerProcess) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(server.uds))
    return httpx.Client(base_url="http://vecmirror", transport=transport, timeout=30, headers=KEY)


def test_it_serves_on_both_sockets_and_finishes_requests_at_sigterm(tmp_path: Path) -> None:
    with _process(tmp_path, AUTH__ADMIN_KEYS="hunter2", SERVER__LOG_LEVEL="debug") as server:
        server.wait_alive()
        with _tcp(server) as tcp, _unix(server) as unix, _tcp(server) as other:
            feed = Api(tcp).fill(20)
            query = feed.vectors[0].tolist()
            by_tcp, by_unix = Api(tcp).search(vector=query), Api(unix).search(vector=query)
            assert by_tcp.json()["hits"] == by_unix.json()["hits"]
            assert len(by_tcp.json()["hits"]) == 10
            waiting = _search_in_thread(other, vector=query, min_lsn="0/2000", timeout_ms=1500)
            _wait_for_waiting_search(tcp)
            assert server.end(signal.SIGTERM) == 0
            assert waiting.result(10).status_code == 409
    assert not server.uds.exists()
    assert server.lines[-1]["message"] == "stopped"
    (search, *_) = [line for line in server.lines if str(line.get("path")).endswith("search")]
    assert (search["method"], search["status"]) == ("POST", 200)
    assert {"request_id", "took_ms", "timestamp", "level"} <= set(search)
    assert "hunter2" not in json.dumps(server.lines)


def test_it_starts_again_after_kill_and_ends_at_sigint(tmp_path: Path) -> None:
    with _process(tmp_path) as server:
        server.wait_alive()
        with _tcp(server) as client:
            feed = Api(client).fill(5)
            assert Api(client).send(feed.delete([0])).status_code == 200
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
    assert server.uds.exists()
    with _process(tmp_path) as server:
        server.wait_alive()
        with _unix(server) as client:
            while client.get("/readyz").status_code != 200:  # alive comes before loaded
                time.sleep(0.01)
            hits = Api(client).search(vector=feed.vectors[0].tolist(), k=9).json()["hits"]
        assert {hit["key"] for hit in hits} == {10, 20, 30, 40}
        assert server.end(signal.SIGINT) == 0


def test_unsafe_settings_end_it_with_status_2(tmp_path: Path) -> None:
    with _process(tmp_path, SERVER__HOST="0.0.0.0") as server:
        assert server.end() == 2
    (line,) = server.lines
    assert "set auth.admin_keys" in line["reason"]


def test_a_data_directory_in_use_ends_it_with_status_1(tmp_path: Path) -> None:
    with closing(Catalog(tmp_path / "data")), _process(tmp_path) as server:
        assert server.end() == 1
    assert "another Vecmirror server" in server.lines[-1]["reason"]


def test_an_address_in_use_is_named(tmp_path: Path) -> None:
    uds = tmp_path / "a.sock"
    with listening(ServerSection(port=0, uds=uds)) as (tcp, _):
        port = tcp.getsockname()[1]
        for section, says in (
            (ServerSection(port=port), f"127.0.0.1 port {port}"),
            (ServerSection(tcp=False, uds=uds), "another server listens there"),
            (ServerSection(tcp=False), "set one of them"),
        ):
            with pytest.raises(CannotListen, match=says), listening(section):
                pytest.fail("it listens")
        assert uds.exists()
    assert not uds.exists()


def _search_in_thread(client: httpx.Client, **body: Any) -> Future[httpx.Response]:
    future: Future[httpx.Response] = Future()
    Thread(target=lambda: future.set_result(Api(client).search(**body)), daemon=True).start()
    return future


def _wait_for_waiting_search(client: httpx.Client) -> None:
    """Return once a search waits for an LSN."""
    while "vecmirror_searches_waiting 1.0" not in client.get("/metrics").text:
        time.sleep(0.01)


def test_a_matrix_product_has_the_threads_of_the_settings() -> None:
    script = (
        "from threadpoolctl import threadpool_info\n"
        "from server.main import serve\n"
        "from server.settings import Settings\n"
        "server = {'host': '0.0.0.0', 'math_threads': 1}\n"
        "assert serve(Settings.model_validate({'server': server})) == 2\n"
        "pools = [pool for pool in threadpool_info() if pool['user_api'] == 'blas']\n"
        "assert pools and {pool['num_threads'] for pool in pools} == {1}\n"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], env=environment, cwd=root, check=True)
