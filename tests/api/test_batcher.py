"""The batcher's invariants, with a gate in the place of slow searches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from server.batcher import Batcher, Overloaded


class Gate:
    """A ``run`` that answers -job for each job, once it is let through; notes its batches."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        """Answer a batch."""
        self.batches.append(list(jobs))
        assert self.open.wait(10)
        return [ValueError(str(job)) if job < 0 else -job for job in jobs]


async def _settle(batcher: Batcher[int, int], queued: int) -> None:
    while batcher.queued != queued:
        await asyncio.sleep(0)


def _batcher(gate: Gate, pool: ThreadPoolExecutor, max_queued: int = 100) -> Batcher[int, int]:
    return Batcher(gate, pool, max_rows=4, max_queued=max_queued)


def test_what_arrives_while_a_batch_runs_is_the_next_batch() -> None:
    async def scenario(gate: Gate, pool: ThreadPoolExecutor) -> None:
        batcher = _batcher(gate, pool)
        tasks = [asyncio.create_task(batcher.submit("lane", 1, 1))]
        await _settle(batcher, 1)
        while not gate.batches:
            await asyncio.sleep(0.001)
        tasks += [asyncio.create_task(batcher.submit("lane", job, 1)) for job in range(2, 8)]
        await _settle(batcher, 7)
        gate.open.set()
        assert await asyncio.gather(*tasks) == [-1, -2, -3, -4, -5, -6, -7]
        assert gate.batches == [[1], [2, 3, 4, 5], [6, 7]]
        assert batcher.queued == 0

    _run(scenario)


def test_lanes_do_not_mix_and_a_large_request_runs_alone() -> None:
    async def scenario(gate: Gate, pool: ThreadPoolExecutor) -> None:
        batcher = _batcher(gate, pool)
        gate.open.set()
        lanes = [("a", 1, 1), ("b", 2, 1), (None, 3, 1), (None, 4, 1), ("a", 5, 9)]
        tasks = [asyncio.create_task(batcher.submit(*lane)) for lane in lanes]
        assert await asyncio.gather(*tasks) == [-1, -2, -3, -4, -5]
        assert sorted(gate.batches) == [[1], [2], [3], [4], [5]]

    _run(scenario)


def test_each_request_gets_its_own_error() -> None:
    async def scenario(gate: Gate, pool: ThreadPoolExecutor) -> None:
        batcher = _batcher(gate, pool)
        gate.open.set()
        tasks = [asyncio.create_task(batcher.submit("lane", job, 1)) for job in (1, -2, 3)]
        first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
        assert (first, third) == (-1, -3)
        assert isinstance(second, ValueError)

    _run(scenario)


def test_a_request_that_was_given_up_is_not_run() -> None:
    async def scenario(gate: Gate, pool: ThreadPoolExecutor) -> None:
        batcher = _batcher(gate, pool)
        running = asyncio.create_task(batcher.submit("lane", 1, 1))
        while not gate.batches:
            await asyncio.sleep(0.001)
        given_up = asyncio.create_task(batcher.submit("lane", 2, 1))
        kept = asyncio.create_task(batcher.submit("lane", 3, 1))
        await _settle(batcher, 3)
        given_up.cancel()
        gate.open.set()
        assert (await running, await kept) == (-1, -3)
        assert gate.batches == [[1], [3]]
        assert batcher.queued == 0

    _run(scenario)


def test_one_more_than_the_limit_is_refused_and_room_comes_back() -> None:
    async def scenario(gate: Gate, pool: ThreadPoolExecutor) -> None:
        batcher = _batcher(gate, pool, max_queued=2)
        tasks = [asyncio.create_task(batcher.submit("lane", job, 1)) for job in (1, 2)]
        await _settle(batcher, 2)
        with pytest.raises(Overloaded):
            await batcher.submit("other", 3, 1)
        gate.open.set()
        await asyncio.gather(*tasks)
        assert await batcher.submit("other", 3, 1) == -3

    _run(scenario)


def _run(scenario: object) -> None:
    assert callable(scenario)
    gate = Gate()
    with ThreadPoolExecutor(4) as pool:
        asyncio.run(scenario(gate, pool))
