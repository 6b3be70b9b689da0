"""RelationLayout: where the mirrored columns stand in the rows of a Relation message.

Columns are found by name, so that unrelated ones may come, go and move; the table itself is known
by its oid, so that it may be renamed. What would make the index stale without a single row event, a
mirrored column of another type, dimension or name, needs a new copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .errors import ResyncNeeded
from .messages import Relation, RelationColumn
from .table import TableSpec

#: Built-in types by oid (Postgres' pg_type.dat). Others are named by Type messages.
_BUILT_IN: dict[int, str] = {
    16: "bool",
    20: "int8",
    21: "int2",
    23: "int4",
    25: "text",
    700: "float4",
    701: "float8",
    1005: "int2[]",
    1007: "int4[]",
    1009: "text[]",
    1014: "text[]",
    1015: "text[]",
    1016: "int8[]",
    1021: "float4[]",
    1022: "float8[]",
    1042: "text",
    1043: "text",
    1082: "date",
    1114: "timestamp",
    1184: "timestamptz",
    2950: "uuid",
}
#: Names by which a domain over a built-in type is described, where they differ from ours.
_CANONICAL = {"varchar": "text", "bpchar": "text", "_varchar": "text[]", "_bpchar": "text[]"}
#: Types whose modifier is the dimension.
_DIMENSIONED = frozenset({"vector", "halfvec", "sparsevec"})


@dataclass(frozen=True, slots=True)
class RelationLayout:
    """Positions in a row of ``n_columns``: of the key columns, the vector, the filter columns."""

    n_columns: int
    key: tuple[int, ...]
    vector: int
    columns: tuple[int, ...]


def layout_of(
    table: TableSpec, relation: Relation, type_names: Mapping[int, str]
) -> RelationLayout:
    """Return where the table's columns stand; ``type_names`` is what Type messages said, by oid.

    Raises ResyncNeeded when the relation is not what the spec describes any more.
    """
    positions = {column.name: i for i, column in enumerate(relation.columns)}
    finder = _Finder(table, relation, positions, type_names)
    vector = finder.find(table.vector_column, table.vector_type)
    _check_dimension(table, relation.columns[vector])
    key = tuple(finder.find(column.name, column.type) for column in table.key)
    _check_identity(table, relation, key)
    columns = tuple(finder.find(column.name, column.type) for column in table.columns)
    return RelationLayout(len(relation.columns), key, vector, columns)


@dataclass(frozen=True, slots=True)
class _Finder:
    table: TableSpec
    relation: Relation
    positions: Mapping[str, int]
    type_names: Mapping[int, str]

    def find(self, name: str, type_name: str) -> int:
        position = self.positions.get(name)
        if position is None:
            raise ResyncNeeded(
                f"column {name} of {self.table.qualified_name} was dropped, renamed or left out of "
                "the publication; attach the index again with the columns of today"
            )
        oid = self.relation.columns[position].type_oid
        found = _BUILT_IN.get(oid) or _canonical(self.type_names.get(oid, f"oid {oid}"))
        if found != type_name:
            raise ResyncNeeded(
                f"column {name} of {self.table.qualified_name} changed its type from {type_name} "
                f"to {found}; the table must be copied again"
            )
        return position


def _canonical(name: str) -> str:
    if name in _CANONICAL:
        return _CANONICAL[name]
    return f"{name[1:]}[]" if name.startswith("_") else name


def _check_dimension(table: TableSpec, column: RelationColumn) -> None:
    dimension = column.type_modifier
    if table.vector_type in _DIMENSIONED and dimension not in (-1, table.dim):
        raise ResyncNeeded(
            f"column {table.vector_column} of {table.qualified_name} changed its dimension from "
            f"{table.dim} to {dimension}; the table must be copied again"
        )


def _check_identity(table: TableSpec, relation: Relation, key: tuple[int, ...]) -> None:
    """Raise ResyncNeeded unless deleted rows will carry the key.

    With REPLICA IDENTITY NOTHING the source itself refuses UPDATE and DELETE.
    """
    if relation.replica_identity == "n" or all(relation.columns[i].in_key for i in key):
        return
    names = ", ".join(column.name for column in table.key)
    raise ResyncNeeded(
        f"the replica identity of {table.qualified_name} no longer holds the key ({names}); give "
        "the table a primary key or ALTER TABLE ... REPLICA IDENTITY, then copy it again"
    )
