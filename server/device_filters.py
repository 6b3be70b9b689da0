"""Filters on the backend's own device: which rows match, where a program can tell.

What has no program, a row's error, and columns that do not fit on the device are the business of
the evaluator in ``filters``, which gives the same answers; ``matching`` returns None then.
"""

from __future__ import annotations

from threading import Lock

import structlog

from gpu.arrays import U8
from gpu.cuda_backend import CudaBackend
from gpu.filter_program import FilterColumn

from .filters.filter import Filter
from .state import MirrorState

log = structlog.get_logger("vecmirror.device")


class Tally:
    """How many filters the device and the host have answered, for backends that run filters."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.device = self.host = 0
        self._warned = False

    def add(self, *, on_device: bool) -> None:
        """Count one filter."""
        with self._lock:
            self.device += on_device
            self.host += not on_device

    def warn_once(self) -> None:
        """Say that columns do not fit, the first time."""
        with self._lock:
            warned, self._warned = self._warned, True
        if not warned:
            log.warning(
                "filter columns do not fit on the card; the CPU filters",
                fix="raise server.device_memory_limit_bytes, or take a larger card",
            )


TALLY = Tally()


def matching(expression: Filter, state: MirrorState, first: int) -> U8 | None:
    """Return which rows from ``first`` on match, u8[ceil((n_rows - first) / 8)].

    ``first`` is a multiple of 32. None: the evaluator has to answer.
    """
    index = state.index
    if not index.backend.runs_filters(state.n_rows - first):
        return None
    found = _found(expression, state, first)
    TALLY.add(on_device=found is not None)
    if isinstance(index.backend, CudaBackend) and index.backend.columns_refused:
        TALLY.warn_once()
    return found


def _found(expression: Filter, state: MirrorState, first: int) -> U8 | None:
    # Names that a port adds of its own are no columns that stay what they are.
    if not expression.columns <= state.columns.keys():
        return None
    program = expression.program(state.column)
    if program is None:
        return None
    views = {name: state.column(name) for name in program.columns}
    columns = {
        name: FilterColumn(view.values, view.valid, view.offsets, view.element_valid)
        for name, view in views.items()
    }
    index = state.index
    span = range(first, state.n_rows)
    return index.backend.filter_rows(index.rows, columns, program, index.alive_bits, span)
