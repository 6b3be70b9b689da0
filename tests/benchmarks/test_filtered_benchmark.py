"""The benchmark of filters runs on a small set, and its hit counts are exact."""

from __future__ import annotations

import numpy as np

from benchmarks.filtered import SHARES, built, engine_figures
from benchmarks.vector_sets import VectorSet


def test_every_share_is_measured_beside_no_filter() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 16)) * 2
    rows = (centres[rng.integers(0, 40, 6000)] + rng.normal(size=(6000, 16))).astype(np.float32)
    figures = engine_figures(built(VectorSet("small", "l2", rows, rows[:30])), rows[:30], rounds=2)
    assert [row["share"] for row in figures] == [None, *SHARES]
    assert figures[0]["latency_ratio"] == 1
    matches = [row["matches"] for row in figures]
    assert matches == sorted(matches, reverse=True)
    for row in figures:
        assert row["exact_hit_counts"]
        assert row["recall_at_10"] > 0.85
        assert row["batch_qps"] > 0
