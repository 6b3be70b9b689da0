"""Columns and examples for the tests of filters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pgsync.changes import ARROW_TYPES
from pgsync.table import ColumnSpec
from server.columns import ColumnCodec, ColumnView
from server.filters import parse
from server.filters.literals import from_text

PAGE = Path(__file__).parents[1] / "docs" / "filters.md"


def column_view(type_name: str, values: Sequence[Any]) -> ColumnView:
    """Return a column as the server holds it; ``values`` are those of ARROW_TYPES."""
    codec = ColumnCodec(ColumnSpec("c", type_name))
    return codec.decode(pa.array(values, ARROW_TYPES[type_name]))


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of one length; ``ids`` are what tests call the rows."""

    columns: Mapping[str, ColumnView]
    ids: Sequence[int]

    @property
    def types(self) -> dict[str, str]:
        """Column name to type."""
        return {name: view.type for name, view in self.columns.items()}

    def keep(self, text: str, params: Any = None) -> list[int]:
        """Return the ids of the rows that a filter keeps."""
        found = parse(text, params, self.types).evaluate(self.columns.__getitem__, len(self.ids))
        return [row for row, kept in zip(self.ids, found.tolist(), strict=True) if kept]


def table(**columns: tuple[str, Sequence[Any]]) -> Table:
    """Return a table of columns given as (type, values), with ids from 0."""
    views = {name: column_view(kind, values) for name, (kind, values) in columns.items()}
    return Table(views, range(len(next(iter(views.values())))))


@dataclass(frozen=True, slots=True)
class Example:
    """One line of docs/filters.md: what a filter keeps, or the SQLSTATE of its error."""

    text: str
    params: Any
    expected: list[int] | str


def documented_examples() -> list[Example]:
    """Return every example of docs/filters.md."""
    blocks = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [_example(line) for block in blocks for line in block.splitlines()]


def documented_rows() -> tuple[dict[str, str], list[list[str | None]]]:
    """Return the columns of the page's table with their types, and its rows as Postgres' text."""
    page = PAGE.read_text()
    listed = re.search(r"The columns are `(.*?)`", page)
    assert listed is not None
    types = dict(part.split() for part in listed[1].split(", "))
    rows = [line.strip("|").split("|") for line in page.splitlines() if re.match(r"\| \d", line)]
    cells = [[_cell(cell.strip()) for cell in row] for row in rows]
    return types, [row for row in cells if len(row) == len(types) + 1]


def documented_table() -> Table:
    """Return the page's table."""
    types, rows = documented_rows()
    views = {}
    for place, (name, kind) in enumerate(types.items(), 1):
        cells = [row[place] for row in rows]
        values = [None if cell is None else from_text(kind, cell, 0) for cell in cells]
        views[name] = column_view(kind, values)
    return Table(views, [int(row[0] or 0) for row in rows])


def _cell(text: str) -> str | None:
    return None if text == "NULL" else text


def _example(line: str) -> Example:
    text, *middle, last = re.split(r"\s+-- ", line)
    params = json.loads(middle[0]) if middle else None
    if last.startswith("error"):
        return Example(text, params, last.removeprefix("error "))
    ids = [] if last == "none" else [int(part) for part in last.split(", ")]
    return Example(text, params, ids)
