"""Everything the engine raises on purpose.

    EngineError
     +- BadInput         the caller's arrays or numbers are not what they must be
     +- IndexFull        no room for more rows
     +- FileCorrupt      an index file that is not exactly what was written
     +- TrainingStopped  the stop event was set
     +- BackendError     the device or its library failed
         +- DeviceLost   for good: only a new process can use the device again

Messages name shapes and limits, never component values.
"""

from __future__ import annotations


class EngineError(Exception):
    """Root of everything the engine raises on purpose."""


class BadInput(EngineError, ValueError):
    """Arrays or numbers given by the caller have a wrong shape, range or are not finite."""


class IndexFull(EngineError):
    """Memory or row numbers are used up; what was published before stays searchable."""


class FileCorrupt(EngineError):
    """An index file was cut, changed, or written by something else."""


class TrainingStopped(EngineError):
    """Training ended early because its stop event was set; nothing was changed."""


class BackendError(EngineError):
    """The compute backend is not available or failed."""


class DeviceLost(BackendError):
    """The device's context is broken (a sticky CUDA error): end the process and start anew.

    Nothing that was computed since the fault began is to be believed; nothing is answered with it.
    """
