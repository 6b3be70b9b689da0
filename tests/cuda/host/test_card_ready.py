"""What one runs on the first real card starts here too: as far as that card is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping

import pytest

from gpu import open_backend
from tests.cuda.host.environment import HERE, environment, why_no_host

TIMEOUT_S = 900


def run(
    *arguments: str, settings: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python in an environment (None: this process's) from the project's root."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=settings,
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture
def on_card() -> Mapping[str, str]:
    """Return an environment with the fake card."""
    if reason := why_no_host():
        pytest.skip(reason)
    return environment()


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
def test_the_benchmark_runs_to_its_end_on_any_card_and_measures_real_ones_only(
    on_card: Mapping[str, str],
) -> None:
    refused = run("benchmarks.cuda", settings=on_card)
    assert refused.returncode == 2
    assert "measures real cards only" in refused.stderr
    rehearsed = run("benchmarks.cuda", "--rehearse", settings=on_card)
    assert rehearsed.returncode == 0, rehearsed.stderr
    assert json.loads(rehearsed.stdout)["rehearsed"]["vecmirror"] > 0.9


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
def test_cases_for_a_real_card_run_where_cupy_finds_one(on_card: Mapping[str, str]) -> None:
    cases = ("tests/cuda/kernels/test_append.py", "-m", "gpu", "-p", "no:cacheprovider", "-q")
    done = run("pytest", *cases, settings=on_card)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.skipif(open_backend().name == "cuda", reason="this machine has a card")
def test_without_a_card_both_say_so() -> None:
    measured = run("benchmarks.cuda")
    assert measured.returncode == 2
    assert "needs a CUDA card: " in measured.stderr
    cases = ("tests/cuda/kernels/test_append.py", "-m", "gpu", "-p", "no:cacheprovider", "-q")
    skipped = run("pytest", *cases)
    assert skipped.returncode == 0
    assert "no CUDA device: " in skipped.stdout
