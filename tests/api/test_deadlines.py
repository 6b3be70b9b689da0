"""Deadlines: what is due comes once and in time, what was cancelled never comes."""

from __future__ import annotations

import asyncio
import gc
import weakref
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.deadlines import TICK_S, Deadlines


class Clock:
    """A clock that runs as the test says."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@settings(max_examples=60, deadline=None)
@given(
    start_s=st.floats(0, 1e6),
    waits=st.lists(st.tuples(st.floats(-1, 40 * TICK_S), st.booleans()), min_size=1, max_size=9),
    steps=st.lists(st.floats(0, 15 * TICK_S), min_size=1, max_size=12),
)
def test_a_call_is_made_once_at_its_time_and_never_after_cancel(
    start_s: float, waits: list[tuple[float, bool]], steps: list[float]
) -> None:
    clock = Clock(start_s)

    async def run() -> None:
        deadlines, came = Deadlines(clock), [0] * len(waits)

        def note(number: int) -> None:
            came[number] += 1

        for number, (delay_s, cancelled) in enumerate(waits):
            deadline = deadlines.add(delay_s, partial(note, number))
            if cancelled:
                deadline.cancel()
        for step_s in [*steps, 60 * TICK_S]:
            clock.now_s += step_s
            deadlines._tick()
            await asyncio.sleep(0)
            for (delay_s, cancelled), count in zip(waits, came, strict=True):
                assert count <= (not cancelled)
                if not cancelled and clock.now_s > start_s + max(delay_s, 0) + 2 * TICK_S:
                    assert count == 1
                if clock.now_s < start_s + delay_s:
                    assert count == 0

    asyncio.run(run())


def test_calls_come_by_themselves_and_one_that_fails_stops_no_other() -> None:
    async def run() -> list[str]:
        deadlines, came = Deadlines(), list[str]()
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: came.append("error"))

        def fail() -> None:
            raise ValueError("on purpose")

        done = asyncio.Event()
        deadlines.add(0.0, fail)
        deadlines.add(0.0, lambda: came.append("next"))
        deadlines.add(2 * TICK_S, done.set)
        await asyncio.wait_for(done.wait(), 30)
        return came

    assert sorted(asyncio.run(run())) == ["error", "next"]


def test_a_deadline_that_was_cancelled_holds_on_to_nothing() -> None:
    class Request:
        def late(self) -> None: ...

    async def run() -> None:
        deadlines, request = Deadlines(), Request()
        deadline = deadlines.add(60, request.late)
        gone = weakref.ref(request)
        deadline.cancel()
        del request
        assert gone() is None

    gc.disable()  # counted references alone must do
    try:
        asyncio.run(run())
    finally:
        gc.enable()


def test_the_timer_rests_when_nothing_waits() -> None:
    async def run() -> None:
        deadlines, came = Deadlines(), asyncio.Event()
        for _ in range(2):
            deadlines.add(0.0, came.set)
            await asyncio.wait_for(came.wait(), 30)
            came.clear()
            assert not deadlines._ticking

    asyncio.run(run())
