"""A pytest plugin for a process of ``environment()``: nothing runs unless ``auto`` is the card."""

from __future__ import annotations

from gpu import cuda_backend, open_backend


def pytest_sessionstart() -> None:
    """End the session where the best backend is not the card; filter small indexes there, too."""
    cuda_backend.SMALL_FILTER = 0
    found = open_backend().name
    assert found == "cuda", f"these tests want the card, the best backend here is {found}"
