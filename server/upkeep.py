"""Upkeep: what a mirror does by itself while changes and searches go on.

One thread looks around: it encodes the flat tail in slices, lets expired pins go, and starts jobs,
each in a thread of its own: training, rewriting of lists, compaction, snapshots. Invariants:

- A slice is short, and between two slices waiting change batches get their turn.
- One job of a kind runs at a time, and of the three that make an index anew only one in all.
- A failed job is logged and tried again later; one of those three that succeeded is not started
  again by itself before it has rested for ``rest_factor`` times as long as it took.
- ``close`` returns when no thread is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

import structlog

from gpu.errors import IndexFull, TrainingStopped
from gpu.rewriting import rewritten
from gpu.training import train

if TYPE_CHECKING:
    from gpu.state import IndexState

    from .mirror import Mirror

log = structlog.get_logger("vecmirror.upkeep")

#: Seconds between two looks when there is nothing to encode.
_IDLE_S = 0.2
#: Pause after a slice, so that a change batch that waits for the lock gets it.
_YIELD_S = 0.002
#: Seconds before a failed training or snapshot is tried again.
_RETRY_S = 60.0
#: A tail shorter than this is left until it is this old: encoding one row costs almost a slice.
_TAIL_REST_S = 1.0
#: Jobs that read a whole index and make parts of it anew; what one makes the next would throw away.
_REMAKING = frozenset({"training", "rewriting", "compaction"})


class UpkeepStopped(Exception):
    """The mirror is being closed."""


class Upkeep:
    """The background work of one mirror."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._stop, self._lock = Event(), Lock()
        self._thread: Thread | None = None
        self._jobs: dict[str, Thread] = {}
        self._not_before_s: dict[str, float] = {}
        self._progress: dict[str, object] | None = None
        self._tail_seen_s = 0.0

    def start(self) -> None:
        """Start looking around."""
        self._thread = Thread(
            target=self._run, name=f"upkeep-{self._mirror.spec.name}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop everything and wait for it."""
        self._stop.set()
        with self._lock:
            threads = [*self._jobs.values(), *([self._thread] if self._thread else [])]
        for thread in threads:
            thread.join()

    def training(self) -> dict[str, object] | None:
        """Return {step, done, total} of a running training, None when none runs."""
        return self._progress

    def running(self) -> list[str]:
        """Return the names of the jobs that run now."""
        with self._lock:
            return sorted(self._jobs)

    def start_training(self) -> bool:
        """Start training unless there is nothing to train on, or such a job runs already."""
        return self._mirror.state.index.live_rows > 0 and self._start("training", self._train)

    def _run(self) -> None:
        while not self._stop.is_set():
            busy = False
            try:
                busy = self._look()
            except Exception:  # leases of pins must run out whatever else goes wrong
                log.exception("upkeep failed", index=self._mirror.spec.name)
            self._stop.wait(_YIELD_S if busy else _IDLE_S)

    def _look(self) -> bool:
        """Do what is due; return whether there is more to encode."""
        mirror = self._mirror
        mirror.expire_pins()
        index = mirror.state.index
        self._remake(index)
        if mirror.snapshot_due() and self._may("snapshot"):
            self._start("snapshot", self._snapshot)
        return self._encode(index.n_rows - index.encoded_rows if index.trained else 0)

    def _remake(self, index: IndexState) -> None:
        """Start the first of the large jobs that is due."""
        if self._mirror.failed is not None:
            return
        if self._mirror.state.phase == "live" and index.training_due and self._may("training"):
            self.start_training()
        elif self._mirror.compaction_due() and self._may("compaction"):
            self._start("compaction", self._compact)
        elif index.rewrite_due and self._may("rewriting"):
            self._start("rewriting", self._rewrite)

    def _encode(self, tail_rows: int) -> bool:
        now_s, limit = time.monotonic(), self._mirror.options.encode_slice_rows
        if tail_rows == 0:
            self._tail_seen_s = now_s
            return False
        if tail_rows < limit and now_s - self._tail_seen_s < _TAIL_REST_S:
            return False
        self._tail_seen_s = now_s
        if not self._may("encoding"):
            return False
        try:
            return self._mirror.encode_some(limit) > 0
        except IndexFull as error:  # rows stay in the tail, where searches find them
            self._not_before_s["encoding"] = time.monotonic() + _RETRY_S
            log.warning("no room for more lists", index=self._mirror.spec.name, reason=str(error))
            return False

    def _train(self) -> None:
        index, memory_bytes = self._mirror.state.index, self._mirror.options.training_memory_bytes
        trained = train(index, progress=self._note, stop=self._stop, memory_bytes=memory_bytes)
        if self._mirror.adopt(trained, index):
            log.info("trained", index=self._mirror.spec.name, rows=index.live_rows)

    def _rewrite(self) -> None:
        index = self._mirror.state.index
        if self._mirror.adopt(rewritten(index, self._pause), index):
            dead_rows = index.dead_encoded_rows
            log.info("lists rewritten", index=self._mirror.spec.name, dead_rows=dead_rows)

    def _compact(self) -> None:
        dead_rows = self._mirror.state.index.dead_rows
        if self._mirror.compact(self._pause):
            log.info("compacted", index=self._mirror.spec.name, dead_rows=dead_rows)

    def _pause(self) -> None:
        """Let changes and searches get their turn; raise UpkeepStopped when it is time to end."""
        if self._stop.wait(_YIELD_S):
            raise UpkeepStopped

    def _snapshot(self) -> None:
        lsn = self._mirror.snapshot()
        log.info("snapshot written", index=self._mirror.spec.name, lsn=lsn)

    def _note(self, step: str, done: int, total: int) -> None:
        self._progress = {"step": step, "done": done, "total": total}

    def _may(self, job: str) -> bool:
        return time.monotonic() >= self._not_before_s.get(job, 0.0)

    def _start(self, job: str, work: Callable[[], None]) -> bool:
        with self._lock:
            if self._stop.is_set() or job in self._jobs:
                return False
            if job in _REMAKING and _REMAKING & self._jobs.keys():
                return False
            name = f"{job}-{self._mirror.spec.name}"
            thread = Thread(target=self._do, args=(job, work), name=name, daemon=True)
            self._jobs[job] = thread
            if job == "training":
                self._note("starting", 0, 1)
            thread.start()
            return True

    def _do(self, job: str, work: Callable[[], None]) -> None:
        began_s = time.monotonic()
        try:
            work()
            if job in _REMAKING:
                now_s = time.monotonic()
                rest_s = self._mirror.options.rest_factor * (now_s - began_s)
                self._not_before_s[job] = now_s + rest_s
        except (TrainingStopped, UpkeepStopped):
            log.info(f"{job} stopped", index=self._mirror.spec.name)
        except Exception:  # whatever it was: not again at once, and the rest of upkeep goes on
            self._not_before_s[job] = time.monotonic() + _RETRY_S
            log.exception(f"{job} failed", index=self._mirror.spec.name)
        finally:
            with self._lock:
                del self._jobs[job]
                if job == "training":
                    self._progress = None
