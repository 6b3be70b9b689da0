"""Work cut into parts for several threads: every part is done once, errors reach the caller."""

from __future__ import annotations

import threading

import pytest

from gpu.cpu.threads import parts, run


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 130, 1000, 5000])
def test_every_query_is_worked_on_once(threads: int, n: int) -> None:
    seen: list[int] = []
    run(lambda part: seen.extend(range(part.start, part.stop)), parts(n, 400, threads), threads)
    assert sorted(seen) == list(range(n))


def test_the_caller_does_all_where_every_thread_of_the_pool_is_busy() -> None:
    busy, go_on = threading.Barrier(5), threading.Event()

    def wait(_: slice) -> None:
        busy.wait(30)
        go_on.wait(30)

    others = [
        threading.Thread(target=run, args=(wait, [slice(0, 1), slice(1, 2)], 2, "crowded"))
        for _ in range(2)
    ]
    for other in others:
        other.start()
    busy.wait(30)
    done: list[slice] = []
    run(done.append, [slice(0, 1), slice(1, 2), slice(2, 3)], 2, "crowded")
    assert len(done) == 3
    go_on.set()
    for other in others:
        other.join()


def test_the_first_error_is_raised_once_every_part_has_ended() -> None:
    ended: list[int] = []

    def work(part: slice) -> None:
        if part.start == 1:
            raise ValueError("part 1")
        ended.append(part.start)

    with pytest.raises(ValueError, match="part 1"):
        run(work, [slice(i, i + 1) for i in range(6)], 2)
    assert sorted(ended) == [0, 2, 3, 4, 5]
