"""CUDA graphs of the low-latency search: its copies and launches queued with one call.

A search of few queries takes some ten calls of the driver at two to five microseconds each, as long
as the work itself. A graph replays them with one. What it replays are addresses and sizes, so it
fits exactly the searches that have the same: those are its key. A key seen for the first time runs
plainly, so that one-off shapes are never captured; its second time is captured.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol, runtime_checkable

from .device import Stream

#: Graphs of one workspace; each holds some kilobytes of the driver.
MOST_GRAPHS = 16


class Graph(Protocol):
    """A captured sequence."""

    def launch(self, stream: Stream) -> None:
        """Queue it."""
        ...


@runtime_checkable
class Capturing(Protocol):
    """A device that can capture what is queued on a stream."""

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Record what ``work`` queues, without running it."""
        ...


class Graphs:
    """The graphs of one stream, the least used ones forgotten."""

    def __init__(self, device: object, stream: Stream) -> None:
        self._device = device if isinstance(device, Capturing) else None
        self._stream = stream
        self._known: OrderedDict[Hashable, Graph | None] = OrderedDict()

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """Queue ``work``, by a graph where one pays. Everything it uses must be in ``key``."""
        if self._device is None:
            work()
            return
        if key not in self._known:
            self._known[key] = None
            work()
        else:
            graph = self._known[key] or self._device.capture(self._stream, work)
            self._known[key] = graph
            self._known.move_to_end(key)
            graph.launch(self._stream)
        while len(self._known) > MOST_GRAPHS:
            self._known.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
