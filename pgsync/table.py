"""What the sidecar and the server must know of a mirrored table, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

VectorType = Literal["vector", "halfvec", "sparsevec", "float4[]", "float8[]"]

#: Column types that can identify a row. Postgres sends each with a fixed binary form.
KEY_TYPES = frozenset({"int2", "int4", "int8", "uuid", "text"})

#: Column types that can be mirrored for filters. varchar and bpchar count as text.
FILTER_TYPES = frozenset(
    {"bool", "int2", "int4", "int8", "float4", "float8", "text", "timestamptz", "timestamp"}
    | {"date", "uuid", "int2[]", "int4[]", "int8[]", "text[]"}
)


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """One column: its name and canonical type name (a member of KEY_TYPES or FILTER_TYPES)."""

    name: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """A mirrored vector column and the columns that travel with it.

    ``relation_id`` is the table's oid: renames keep it. ``dim`` is the number of components every
    mirrored vector has. Key columns come in primary key (or replica identity) order.
    """

    schema: str
    table: str
    relation_id: int
    vector_column: str
    vector_type: VectorType
    dim: int
    key: tuple[ColumnSpec, ...]
    columns: tuple[ColumnSpec, ...] = field(default=())

    @property
    def qualified_name(self) -> str:
        """``schema.table``, for messages; quote it with psycopg.sql where it goes into SQL."""
        return f"{self.schema}.{self.table}"

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that travels over HTTP and lies in the catalog."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TableSpec:
        """Rebuild a spec from ``to_json``; raise TypeError or KeyError for another shape."""
        key = tuple(ColumnSpec(**column) for column in data["key"])
        columns = tuple(ColumnSpec(**column) for column in data.get("columns", ()))
        return cls(**{**data, "key": key, "columns": columns})
