"""The search benchmark runs end to end on a small set, and its JSON has its shape."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.search import rival_faiss
from benchmarks.search.__main__ import main
from benchmarks.search.engines import Limits, Setting, load_search_set
from benchmarks.search.tuning import candidates, smallest

ROOT = Path(__file__).parents[2]
RIVALS = [
    name
    for name, module in (("faiss", "faiss"), ("hnswlib", "hnswlib"))
    if importlib.util.find_spec(module) is not None
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a set of 4,000 rows in 40 clusters."""
    path, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    centres = rng.normal(size=(40, 32)) * 2
    for name, rows in (("base", 4000), ("query", 80)):
        vectors = centres[rng.integers(0, 40, rows)] + rng.normal(size=(rows, 32))
        np.save(path / f"sift_{name}.npy", vectors.astype(np.float32))
    return path


@pytest.fixture(scope="module")
def measured(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what ``--json`` prints; a setting of BLAS must not get through."""
    cache = str(tmp_path_factory.mktemp("built"))
    options = ["--data", str(folder), "--cache", cache, "--targets", "0.9,0.99"]
    command = [sys.executable, "-m", "benchmarks.search", *options]
    done = subprocess.run(
        [*command, "--rivals", ",".join(RIVALS), "--json"],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_CORETYPE": "Haswell"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_rival_is_measured_at_each_recall_in_both_modes(measured: Any) -> None:
    seen = {(one["rival"], one["recall"], one["mode"]) for one in measured["ratios"]}
    assert seen == {
        (rival, recall, mode)
        for rival in RIVALS
        for recall in (0.9, 0.99)
        for mode in ("single", "batch")
    }
    for one in measured["ratios"]:
        assert one["ratio"] == pytest.approx(one["ours_qps"] / one["rival_qps"], rel=0.01)
        assert min(one["ours_recall"], one["rival_recall"]) > one["recall"] - 0.1


def test_indexes_are_described_and_the_first_search_is_timed(measured: Any) -> None:
    engines = {one["engine"]: one for one in measured["engines"]}
    assert engines.keys() == {"vecmirror", *RIVALS}
    assert engines["vecmirror"]["raw_bytes_per_vector"] == 2 * 32 + 4
    assert measured["first_search"]["first_us"] > 0
    assert [one["target"] for one in measured["planned"]] == [0.9, 0.99]


def test_a_rival_that_is_not_installed_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rival_faiss, "faiss", None)
    with pytest.raises(SystemExit):
        main(["--data", str(folder), "--rivals", "faiss"])
    assert "pip install 'vecmirror[benchmarks]'" in capsys.readouterr().err


def test_ground_truth_is_read_where_there_is_some(folder: Path) -> None:
    computed = load_search_set(folder, "sift")
    assert computed.recall(slice(0, 80), computed.truth) == 1.0
    wrong = (computed.truth + 1) % 4000
    np.save(folder / "sift_gt.npy", wrong)
    assert np.array_equal(load_search_set(folder, "sift").truth, wrong)
    (folder / "sift_gt.npy").unlink()


def test_settings_reach_the_recall_and_none_is_worse_in_both_ways() -> None:
    def recall(setting: Setting) -> float:
        return min(1.0, setting.breadth / 100) * min(1.0, setting.depth / 50)

    found = candidates(recall, Limits((1, 200), (10, 400)), 0.8)
    assert found[0] == Setting(80, 50)
    assert all(recall(one) >= 0.8 for one in found)
    assert [one.depth for one in found] == sorted({one.depth for one in found}, reverse=True)
    assert candidates(recall, Limits((1, 50), (10, 400)), 0.8) == []


def test_bisection_finds_the_first_good_number() -> None:
    for first in range(5, 20):
        assert smallest(5, 19, lambda n, first=first: n >= first) == first  # type: ignore[misc]
    assert smallest(5, 19, lambda n: False) is None
