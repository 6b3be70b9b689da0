"""The search benchmark runs end to end at sizes too small to mean anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.closed_loop import http_requests
from benchmarks.http import exact_nearest

ROOT = Path(__file__).parents[2]


def test_both_forms_and_pgvector_are_measured_at_each_concurrency() -> None:
    tiny = "--rows 900 --dim 16 --seconds 0.3 --concurrency 1,3 --json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.http", *tiny.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert set(measured["qps"]) == {"vecmirror json", "vecmirror raw", "pgvector hnsw"}
    for by_concurrency in measured["qps"].values():
        assert set(by_concurrency) == {"1", "3"}
        assert min(by_concurrency.values()) > 0
    for recall in measured["recall_at_10"].values():
        assert 0.5 < recall <= 1


def test_the_nearest_rows_are_those_of_a_full_sort() -> None:
    rng = np.random.default_rng(3)
    base, queries = rng.random((50, 4), np.float32), rng.random((5, 4), np.float32)
    for query, found in zip(queries, exact_nearest(base, queries), strict=True):
        order = np.argsort(np.linalg.norm(base - query, axis=1))
        assert found == set((order[:10] + 1).tolist())


@pytest.mark.parametrize("form", ["json", "raw"])
def test_a_prepared_request_announces_its_length(form: str) -> None:
    (request,) = http_requests({"path": "/search", "form": form}, np.ones((1, 3), np.float32))
    head, _, body = request.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    expected = np.ones(3, "<f4").tobytes() if form == "raw" else b'{"vector": [1.0, 1.0, 1.0]'
    assert body.startswith(expected)
