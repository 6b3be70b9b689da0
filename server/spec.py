"""What an index is: the plain values that the catalog keeps and ``GET /v1/indexes`` shows."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from gpu.params import IndexParams
from pgsync.changes import ARROW_TYPES
from pgsync.table import KEY_TYPES, TableSpec

from .errors import BadName

Metric = Literal["l2", "cosine", "ip"]
RawType = Literal["float32", "float16"]

#: Names are directory names too, so the rule leaves out slashes, upper case and leading dots.
_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,62}")

#: pgvector's own limit for the ``vector`` type.
MAX_DIM = 16_000

#: The ``unchanged`` bit mask of a change has 64 bits.
MAX_COLUMNS = 64


def check_name(name: str) -> str:
    """Return ``name`` if it may name an index; raise BadName otherwise."""
    if _NAME.fullmatch(name) is None:
        raise BadName
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildParams:
    """How the index is built; the fields of ``gpu.IndexParams`` that do not follow from the table.

    ``raw_dtype`` None means float16 for halfvec columns, whose values it holds exactly, and
    float32 for all others. ``m`` and ``nlist`` None leave the choice to training.
    """

    raw_dtype: RawType | None = None
    code_bits: Literal[4, 8] = 4
    m: int | None = None
    nlist: int | None = None
    train_from_rows: int = 20_000
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSpec:
    """One index: a mirrored vector column, its metric, and the source's names for its feed.

    ``publication`` and ``slot`` are None for an index that is fed by hand. ``database`` is the
    source's name; only a sidecar of a database of that name feeds the index, any if it is None.
    Construction raises BadName or ValueError for values no index can have.
    """

    name: str
    table: TableSpec
    metric: Metric = "l2"
    params: BuildParams = field(default_factory=BuildParams)
    publication: str | None = None
    slot: str | None = None
    database: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_table(self.table)
        self.index_params()

    @property
    def raw_dtype(self) -> RawType:
        """Element type in which raw vectors are kept."""
        if self.params.raw_dtype is not None:
            return self.params.raw_dtype
        return "float16" if self.table.vector_type == "halfvec" else "float32"

    def index_params(self) -> IndexParams:
        """Return what the engine is told; raise ValueError for a parameter out of range."""
        params = {**asdict(self.params), "raw_dtype": self.raw_dtype}
        return IndexParams(dim=self.table.dim, metric=self.metric, **params)

    @property
    def column_types(self) -> dict[str, str]:
        """Canonical type by filter column name, for the filter parser."""
        return {column.name: column.type for column in self.table.columns}

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that lies in the catalog and travels over HTTP."""
        return {**asdict(self), "table": self.table.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> IndexSpec:
        """Rebuild a spec from ``to_json``; raise TypeError, KeyError or ValueError otherwise."""
        table = TableSpec.from_json(data["table"])
        params = BuildParams(**data.get("params", {}))
        return cls(**{**data, "table": table, "params": params})


def _check_table(table: TableSpec) -> None:
    if not 1 <= table.dim <= MAX_DIM:
        raise ValueError(f"dim is between 1 and {MAX_DIM}")
    if not table.key:
        raise ValueError("a table without key columns cannot be mirrored")
    if any(column.type not in KEY_TYPES for column in table.key):
        raise ValueError("a key column has a type that cannot identify a row")
    if any(column.type not in ARROW_TYPES for column in table.columns):
        raise ValueError("a filter column has a type that cannot be mirrored")
    if len(table.columns) > MAX_COLUMNS:
        raise ValueError(f"at most {MAX_COLUMNS} filter columns")
    for columns in (table.key, table.columns):
        if len({column.name for column in columns}) != len(columns):
            raise ValueError("two columns have the same name")
