"""Failures on order: the n-th allocation, copy or launch fails, once or for good."""

from __future__ import annotations

from typing import Literal, TypeAlias

from gpu.errors import DeviceLost

Operation: TypeAlias = Literal[
    "empty", "pinned", "upload", "download", "copy", "fill", "launch", "synchronize", "stream"
]


class Failures:
    """What must fail, and whether the context is lost (as after a sticky CUDA error)."""

    def __init__(self) -> None:
        self._planned: dict[Operation, tuple[int, Exception, bool]] = {}
        self._lost: str | None = None

    def plan(
        self, operation: Operation, error: Exception, *, after: int = 0, sticky: bool = False
    ) -> None:
        """Let ``operation`` raise ``error`` after that many calls that work."""
        self._planned[operation] = (after, error, sticky)

    def lose(self, reason: str) -> None:
        """From now on every operation raises DeviceLost, as CUDA does after a kernel fault."""
        self._lost = self._lost or reason

    def check(self, operation: Operation) -> None:
        """Raise what is planned for this call."""
        if self._lost:
            raise DeviceLost(f"the device's context is lost: {self._lost}")
        if operation not in self._planned:
            return
        left, error, sticky = self._planned.pop(operation)
        if left:
            self._planned[operation] = (left - 1, error, sticky)
            return
        if sticky:
            self.lose(str(error))
        raise error
