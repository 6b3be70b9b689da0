"""The churn benchmark runs end to end on a small set, and its JSON has its shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.churn import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a set of 4,000 rows in 40 clusters."""
    path, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    centres = rng.normal(size=(40, 16)) * 2
    for name, rows in (("base", 4000), ("query", 30)):
        vectors = centres[rng.integers(0, 40, rows)] + rng.normal(size=(rows, 16))
        np.save(path / f"sift_{name}.npy", vectors.astype(np.float32))
    return path


@pytest.fixture(scope="module")
def measured(folder: Path) -> Any:
    """Return what ``--json`` prints, and nothing else is printed to stdout."""
    command = [sys.executable, "-m", "benchmarks.churn", "--data", str(folder), "--json"]
    done = subprocess.run(
        [*command, "--share", "0.6"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_recall_after_churn_is_that_of_a_fresh_build(measured: Any) -> None:
    for phase in ("before", "during", "after", "fresh"):
        assert measured[phase]["recall"] > 0.85
        assert measured[phase]["single_qps"] > 0
    assert measured["recall_lost"] == pytest.approx(
        measured["fresh"]["recall"] - measured["after"]["recall"], abs=1e-4
    )
    assert measured["recall_lost"] < 0.05


def test_dead_rows_are_gone_in_the_end_and_nothing_was_trained_again(measured: Any) -> None:
    assert (measured["rows"], measured["replaced"]) == (2500, 1500)
    assert (measured["row_ids"], measured["dead_rows"]) == (2500, 0)
    assert measured["retrained"] is False
    assert {"processor", "cores", "numpy"} <= measured["machine"].keys()


def test_a_share_that_means_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(SystemExit):
        main(["--data", str(folder), "--share", "0"])
