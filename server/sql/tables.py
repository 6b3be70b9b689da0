"""An index as a table: its columns in order, and what the light ones are called.

Key columns, mirrored filter columns, the vector column, then the light form of a search. A light
column whose name a mirrored one has is called ``vm_NAME``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from server.spec import IndexSpec

from .types import SqlType, type_named

Role = Literal["key", "filter", "vector", "light"]

#: The schemas that an index is a table of; they are the same.
SCHEMAS = ("vecmirror", "public")
#: The columns of the light form in order, and their types; None: the vector column's own.
LIGHT: Mapping[str, str | None] = {
    "query": None,
    "k": "int4",
    "distance": "float8",
    "filter": "text",
    "recall_target": "float8",
    "min_lsn": "pg_lsn",
    "consistency": "text",
}


@dataclass(frozen=True, slots=True)
class TableColumn:
    """One column; ``type`` as SQL knows it, ``light`` the part it plays in a light search."""

    name: str
    type: SqlType
    role: Role
    typmod: int = -1
    light: str = ""

    @property
    def declared(self) -> str:
        """The type as CREATE TABLE would have it: vector(384), bigint."""
        if self.type.name in ("vector", "halfvec"):
            return f"{self.type.name}({self.typmod})"
        return self.type.spoken


@dataclass(frozen=True, eq=False)
class IndexTable:
    """The table that an index is."""

    spec: IndexSpec

    @property
    def name(self) -> str:
        """The table's name, which is the index's."""
        return self.spec.name

    @cached_property
    def columns(self) -> Mapping[str, TableColumn]:
        """Every column by name, in order."""
        return {column.name: column for column in _columns(self.spec)}

    @cached_property
    def light(self) -> Mapping[str, str]:
        """What each part of the light form is called here."""
        return {column.light: column.name for column in self.columns.values() if column.light}

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The names of the key columns."""
        return tuple(column.name for column in self.spec.table.key)

    @cached_property
    def vector(self) -> TableColumn:
        """The vector column."""
        return next(column for column in self.columns.values() if column.role == "vector")

    @cached_property
    def filter_types(self) -> Mapping[str, str]:
        """Canonical type by name of what filters can read: keys and mirrored columns."""
        table = self.spec.table
        return {column.name: column.type for column in (*table.key, *table.columns)}


@lru_cache(256)
def table_of(spec: IndexSpec) -> IndexTable:
    """Return the table that an index is."""
    return IndexTable(spec)


def _columns(spec: IndexSpec) -> list[TableColumn]:
    table = spec.table
    kind = "halfvec" if table.vector_type == "halfvec" else "vector"
    columns = [TableColumn(column.name, _type(column.type), "key") for column in table.key]
    taken = {column.name for column in table.key}
    columns += [
        TableColumn(column.name, _type(column.type), "filter")
        for column in table.columns
        if column.name not in taken
    ]
    columns.append(TableColumn(table.vector_column, _type(kind), "vector", table.dim))
    taken = {column.name for column in columns}
    for name, type_name in LIGHT.items():
        shown = f"vm_{name}" if name in taken else name
        typmod = -1 if type_name else table.dim
        columns.append(TableColumn(shown, _type(type_name or kind), "light", typmod, name))
    return columns


def _type(name: str) -> SqlType:
    found = type_named(name)
    assert found is not None, f"the port has no type {name}"
    return found
