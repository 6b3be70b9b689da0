"""Upkeep: what a mirror does by itself while changes and searches go on.

One thread looks around: it encodes the flat tail in slices, lets expired pins go, and starts
training and snapshots, each in a thread of its own. Invariants:

- A slice is short, and between two slices waiting change batches get their turn.
- At most one training and one snapshot run at a time; a failed one is logged and tried again later.
- ``close`` returns when no thread is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

import structlog

from gpu.errors import EngineError, TrainingStopped
from gpu.training import train

from .errors import ServerError

if TYPE_CHECKING:
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


class Upkeep:
    """The background work of one mirror."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._stop, self._lock = Event(), Lock()
        self._thread: Thread | None = None
        self._jobs: dict[str, Thread] = {}
        self._retry_at_s: dict[str, float] = {}
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

    def start_training(self) -> bool:
        """Start training unless it runs already or there is nothing to train on."""
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
        if mirror.state.phase == "live" and index.training_due and self._may("training"):
            self.start_training()
        if mirror.snapshot_due() and self._may("snapshot"):
            self._start("snapshot", self._snapshot)
        return self._encode(index.n_rows - index.encoded_rows if index.trained else 0)

    def _encode(self, tail_rows: int) -> bool:
        now_s, limit = time.monotonic(), self._mirror.options.encode_slice_rows
        if tail_rows == 0:
            self._tail_seen_s = now_s
            return False
        if tail_rows < limit and now_s - self._tail_seen_s < _TAIL_REST_S:
            return False
        self._tail_seen_s = now_s
        return self._mirror.encode_some(limit) > 0

    def _train(self) -> None:
        state = self._mirror.state
        trained = train(state.index, progress=self._note, stop=self._stop)
        if self._mirror.adopt(trained, state.epoch):
            log.info("trained", index=self._mirror.spec.name, rows=state.index.live_rows)

    def _snapshot(self) -> None:
        lsn = self._mirror.snapshot()
        log.info("snapshot written", index=self._mirror.spec.name, lsn=lsn)

    def _note(self, step: str, done: int, total: int) -> None:
        self._progress = {"step": step, "done": done, "total": total}

    def _may(self, job: str) -> bool:
        return time.monotonic() >= self._retry_at_s.get(job, 0.0)

    def _start(self, job: str, work: Callable[[], None]) -> bool:
        with self._lock:
            if self._stop.is_set() or job in self._jobs:
                return False
            name = f"{job}-{self._mirror.spec.name}"
            thread = Thread(target=self._do, args=(job, work), name=name, daemon=True)
            self._jobs[job] = thread
            if job == "training":
                self._note("starting", 0, 1)
            thread.start()
            return True

    def _do(self, job: str, work: Callable[[], None]) -> None:
        try:
            work()
        except TrainingStopped:
            log.info("training stopped", index=self._mirror.spec.name)
        except (ServerError, EngineError, MemoryError):
            self._retry_at_s[job] = time.monotonic() + _RETRY_S
            log.exception(f"{job} failed", index=self._mirror.spec.name)
        finally:
            with self._lock:
                del self._jobs[job]
                if job == "training":
                    self._progress = None
