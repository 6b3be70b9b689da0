"""Which engine the server searches with, and what happens when its card is lost.

Invariants:

- Without the card that the settings ask for the server says so once and takes the CPU, or (setting
  ``server.device_required``) does not start.
- After a sticky CUDA error nothing is answered from the card any more. The process ends with its
  own status, so that whoever supervises it starts a new one, from snapshot and journal.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from threading import Lock, Timer

import structlog

from gpu import Backend, BackendError, CudaOptions, open_backend
from gpu.cuda.nvml import count_cards
from gpu.cuda_backend import CudaBackend
from gpu.opening import has_cupy

from .sections import ServerSection

log = structlog.get_logger("vecmirror.device")

#: Exit status after a lost card: EX_TEMPFAIL of sysexits.h, "try again".
DEVICE_LOST = 75


class NoDevice(Exception):
    """The card cannot be had, and the settings say not to do without; the message says why."""


def open_device(server: ServerSection) -> Backend:
    """Return the engine that the settings name, or the CPU's; raise NoDevice where they refuse."""
    if server.device == "cpu":
        return open_backend("cpu")
    if server.device == "auto" and not has_cupy() and not server.device_required:
        if count_cards():
            log.warning("a card is there but CuPy is not; searching on the CPU", fix=_FIX)
        return open_backend("cpu")
    name = "cuda" if server.device == "auto" else server.device
    try:
        backend = open_backend(name, _options(server))
    except BackendError as error:
        if server.device_required:
            raise NoDevice(f"server.device is {server.device} and required: {error}") from error
        log.warning("no card can be used; searching on the CPU", reason=str(error))
        return open_backend("cpu")
    log.info("searching on a card", device=name, memory_limit=server.device_memory_limit_bytes)
    return backend


_FIX = "pip install 'vecmirror[cuda13]' (vecmirror[cuda12] for drivers older than 580)"


def _options(server: ServerSection) -> CudaOptions:
    return CudaOptions(
        memory_limit_bytes=server.device_memory_limit_bytes,
        raw_location=server.device_raw,
        cache_dir=server.kernel_cache_dir,
    )


class DeviceWatch:
    """Ends the process in order when the card is lost; ``reason`` says why, None while all is well.

    ``stop`` asks the server to end, as SIGTERM does; ``give_up`` ends the process at once, when it
    has not ended within ``grace_s``: a thread may hang in the driver.
    """

    def __init__(
        self,
        backend: Backend,
        grace_s: float,
        stop: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGTERM),
        give_up: Callable[[], None] = lambda: os._exit(DEVICE_LOST),
    ) -> None:
        self.reason: str | None = None
        self._grace_s, self._stop, self._give_up = grace_s, stop, give_up
        self._lock = Lock()
        if isinstance(backend, CudaBackend):
            backend.when_lost = self._lost

    def _lost(self, reason: str) -> None:
        with self._lock:
            if self.reason is not None:
                return
            self.reason = reason
        log.critical("the card is lost; ending, to be started anew", reason=reason)
        timer = Timer(self._grace_s, self._give_up)
        timer.daemon = True
        timer.start()
        self._stop()
