"""The benchmark of searches on a card: refuses without one, and measures what it says."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmarks import cuda
from gpu import BackendError
from gpu.cuda_backend import CudaBackend
from tests.cuda.emulator import EmulatedDevice, why_not


def test_without_a_card_it_refuses_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_card(name: str) -> CudaBackend:
        raise BackendError("the CUDA driver shows no card")

    monkeypatch.setattr(cuda, "open_backend", no_card)
    monkeypatch.setattr(sys, "argv", ["benchmarks.cuda"])
    assert cuda.main() == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "needs a CUDA card: the CUDA driver shows no card" in said.err


@pytest.mark.skipif(bool(why_not()), reason=str(why_not()))
def test_it_measures_each_batch_at_the_recall(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = CudaBackend(EmulatedDevice(), small_product=1 << 62)
    monkeypatch.setattr(cuda, "open_backend", lambda name: backend)
    monkeypatch.setattr(sys, "argv", ["benchmarks.cuda", "--rows", "300", "--dims", "8"])
    for name, value in {
        "BATCHES": (1, 12),
        "WARM_UP": 1,
        "MOST_RUNS": 2,
        "TRUTH_QUERIES": 6,
        "COPIED_BYTES": 1 << 16,
        "find_spec": lambda name: None,
        "read_card": lambda bus_id: backend,  # as if NVML knew it
    }.items():
        monkeypatch.setattr(cuda, name, value)
    assert cuda.main() == 0
    printed = json.loads(capsys.readouterr().out)
    assert [result["batch"] for result in printed["results"]] == [1, 12]
    assert all(result["recall"] >= cuda.RECALL for result in printed["results"])
    assert printed["card"]["copied_gbytes_per_s"] > 0


def test_recall_counts_shared_ids() -> None:
    wanted = np.arange(20, dtype=np.int64).reshape(2, 10)
    assert cuda._recall(wanted, wanted) == 1.0
    assert cuda._recall(wanted + 5, wanted) == 0.5
