"""What programs of filters are made of: steps, the columns they read, the data they point into."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpu.arrays import I64
from gpu.filter_program import MOST_STEPS, Op, Step
from server.columns import ColumnView

from .dictionaries import Table
from .machine_values import bit_words

GetColumn = Callable[[str], ColumnView]


class NoProgram(Exception):
    """The expression has a part that programs have no step for; the message says which."""


class Emitter:
    """A program being written. ``view``: the columns by name."""

    def __init__(self, view: GetColumn) -> None:
        self.view = view
        self.steps: list[Step] = []
        self._numbers: dict[str, int] = {}
        self._parts: list[I64] = []
        self._length = 0
        self._constants: dict[int, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The columns by number."""
        return tuple(self._numbers)

    @property
    def data(self) -> I64:
        """What steps point into."""
        return np.concatenate([np.zeros(0, np.int64), *self._parts])

    def emit(self, op: Op, a: int = 0, b: int = 0, c: int = 0) -> None:
        """Add a step; raise NoProgram where there are too many."""
        if len(self.steps) == MOST_STEPS:
            raise NoProgram("it is too long")
        self.steps.append(Step(op, a, b, c))

    def keep(self, words: I64) -> int:
        """Add data; return where it is."""
        at = self._length
        self._parts.append(words)
        self._length += len(words)
        return at

    def constant(self, value: int | None) -> None:
        """Push a number; None is NULL."""
        key = value or 0
        if key not in self._constants:
            self._constants[key] = self.keep(np.array([key], np.int64))
        self.emit(Op.CONST, self._constants[key], int(value is None))

    def table(self, name: str, found: Table, *, bits: bool) -> None:
        """Push the entry of a table for the code of text column ``name``."""
        first = bit_words(found.numbers != 0) if bits else found.numbers
        at = self.keep(np.concatenate([first, bit_words(found.null)]))
        op = Op.LOOK_UP_BIT if bits else Op.LOOK_UP
        self.emit(op, self.number_of(name), at, len(found.numbers))

    def number_of(self, name: str) -> int:
        """Return the number of a column that the program reads."""
        return self._numbers.setdefault(name, len(self._numbers))
