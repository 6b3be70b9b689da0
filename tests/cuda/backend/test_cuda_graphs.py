"""Graphs: what is captured at the second search of a kind answers all later ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpu import Index, NumpyBackend
from gpu.cuda.device import Stream
from gpu.cuda.graphs import MOST_GRAPHS, Graph, Graphs
from gpu.cuda_backend import CudaBackend
from tests.cuda.backend.conftest import MakeCuda, MakeFile, rows_and_queries
from tests.cuda.emulator import EmulatedDevice


class Counting(EmulatedDevice):
    """An emulated card that counts captures, and launches outside of graphs."""

    captures = launches = 0

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:  # type: ignore[override]
        """Count a capture."""
        self.captures += 1
        return super().capture(stream, work)

    def launch(self, *arguments: object, **options: object) -> None:
        """Count a launch."""
        self.launches += 1
        super().launch(*arguments, **options)  # type: ignore[arg-type]


def test_replayed_searches_answer_as_plain_ones(make_cuda: MakeCuda, make_file: MakeFile) -> None:
    make_cuda()  # skips where there is no compiler
    device = Counting(lazy=True, schedule="reverse")
    index = Index.load(make_file(), CudaBackend(device))
    wanted = Index.load(make_file(), NumpyBackend())
    rows, _ = rows_and_queries()
    for one in (index, wanted):  # no tail: exact searches of it are no graphs
        one.encode_pending(1000)
    device.captures = 0  # opening an index searches, too
    for seed in range(7):
        _, queries = rows_and_queries(2, seed=seed)
        before = device.launches
        found = index.state.search(queries, 6, nprobe=5, rerank=30)
        assert (device.launches > before) == (seed in {0, 1, 4, 5}), seed
        expected = wanted.state.search(queries, 6, nprobe=5, rerank=30)
        np.testing.assert_array_equal(found.ids, expected.ids)
        if seed == 3:  # another version of the lists: other addresses, so not the same graph
            for one in (index, wanted):
                one.add(rows[:300])
                one.publish()
                one.encode_pending(1000)
    assert device.captures == 2


def test_only_so_many_graphs_are_kept(make_cuda: MakeCuda) -> None:
    make_cuda()
    device = Counting()
    graphs = Graphs(device, device.stream())
    for number in range(3 * MOST_GRAPHS):
        for _ in range(3):
            graphs.run(number, lambda: None)
    assert device.captures == 3 * MOST_GRAPHS
    assert len(graphs._known) == MOST_GRAPHS


def test_a_device_that_cannot_capture_runs_everything(cuda: CudaBackend) -> None:
    ran: list[int] = []
    graphs = Graphs(object(), cuda.device.stream())
    for _ in range(3):
        graphs.run("same", lambda: ran.append(0))
    assert len(ran) == 3
