"""The search benchmark runs end to end at sizes too small to mean anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.closed_loop import LoopBroken, http_requests, is_whole
from benchmarks.searched import exact_nearest
from gpu import Metric

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
    assert set(measured["ratios"]) == {"json", "raw"}
    recall = measured["recall_at_10"]
    assert 0.5 < recall["vecmirror"] <= recall["pgvector"] <= 1
    assert measured["first_search"]["median_ms"] > 0
    for run in measured["runs"]:
        assert run["p50_ms"] <= run["p99_ms"]


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_the_nearest_rows_are_those_of_a_full_sort(metric: Metric) -> None:
    rng = np.random.default_rng(3)
    base, queries = rng.random((50, 4), np.float32), rng.random((5, 4), np.float32)
    for query, found in zip(queries, exact_nearest(base, queries, metric), strict=True):
        distances = {
            "l2": np.linalg.norm(base - query, axis=1),
            "cosine": 1 - base @ query / np.linalg.norm(base, axis=1),
            "ip": -(base @ query),
        }[metric]
        assert set(found.tolist()) == set(np.argsort(distances)[:10].tolist())


@pytest.mark.parametrize("form", ["json", "raw"])
def test_a_prepared_request_announces_its_length(form: str) -> None:
    (request,) = http_requests({"path": "/search", "form": form}, np.ones((1, 3), np.float32))
    head, _, body = request.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    expected = np.ones(3, "<f4").tobytes() if form == "raw" else b'{"vector": [1.0, 1.0, 1.0]'
    assert body.startswith(expected)


@pytest.mark.parametrize("cut", [5, 20, 50, 71])
def test_an_answer_is_whole_when_its_body_is(cut: int) -> None:
    answer = b'HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 12\r\nx-more: 1\r\n\r\n{"hits": []}'
    assert is_whole(answer)
    assert not is_whole(answer[:cut])


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 429 Too Many\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"],
)
def test_another_answer_than_a_search_ends_the_loop(answer: bytes) -> None:
    with pytest.raises(LoopBroken):
        is_whole(answer)
