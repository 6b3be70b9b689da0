"""The shapes of requests and answers, as OpenAPI shows them.

Requests are strict: no text where a number belongs, no unknown members. What has an upper bound by
setting (k, queries, time) is checked in the routes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator

LSN_PATTERN = r"^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$"

Lsn = Annotated[
    str,
    Field(pattern=LSN_PATTERN, description="A position in Postgres' log.", examples=["0/16B3748"]),
]
KeyValue = StrictInt | StrictStr
Consistency = Literal["eventual", "strong"]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class SearchOptions(_Request):
    """What both forms of a search request have."""

    k: int = Field(default=10, ge=1, description="Hits wanted for each query.")
    filter: str | None = Field(
        default=None,
        min_length=1,
        description="A SQL WHERE expression over the mirrored columns, params as $1 or :name.",
        examples=["category = $1 AND price < 20"],
    )
    exact: bool = Field(default=False, description="Compare with every row instead of probing.")
    nprobe: int | None = Field(default=None, ge=1, description="Lists to probe.")
    recall_target: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the true nearest rows wanted, instead of nprobe.",
    )
    rerank: int | None = Field(
        default=None, ge=0, description="Candidates whose distance is computed from the raw vector."
    )
    with_vector: bool = Field(default=False, description="Return each hit's vector too.")
    timeout_ms: int | None = Field(default=None, ge=1, description="Time limit, waiting included.")
    min_lsn: Lsn | None = Field(
        default=None,
        description="Miss no commit up to here: pg_current_wal_lsn(), read after it.",
    )
    consistency: Consistency = Field(
        default="eventual", description="strong: miss no commit made before this request."
    )

    @model_validator(mode="after")
    def _one_effort(self) -> SearchOptions:
        given = [self.exact, self.nprobe is not None, self.recall_target is not None]
        if sum(given) > 1:
            raise ValueError("give at most one of exact, nprobe and recall_target")
        return self


class SearchBody(SearchOptions):
    """A search as JSON: exactly one of vector, vectors and like."""

    vector: list[float] | None = Field(default=None, min_length=1, description="One query.")
    vectors: list[list[float]] | None = Field(
        default=None, min_length=1, description="Several queries; the answer has ``results``."
    )
    like: KeyValue | list[KeyValue] | None = Field(
        default=None,
        description="Key of an indexed row: search by its vector and leave the row itself out. "
        "A list for a key of several columns.",
    )
    params: list[Any] | dict[str, Any] | None = Field(
        default=None, description="Values of the filter's $1, $2 (list) or :name (object)."
    )
    columns: list[str] = Field(default=[], description="Mirrored columns to return.")

    @model_validator(mode="after")
    def _one_query(self) -> SearchBody:
        if sum(query is not None for query in (self.vector, self.vectors, self.like)) != 1:
            raise ValueError("give exactly one of vector, vectors and like")
        return self


class SearchQuery(SearchOptions):
    """The query string beside a body of float32 rows."""

    model_config = ConfigDict(extra="forbid", strict=False)

    params: str | None = Field(default=None, description="JSON text: a list or an object.")
    columns: str = Field(default="", description="Mirrored columns to return, comma-separated.")


class ChangesQuery(_Request):
    """The query string beside a change batch."""

    model_config = ConfigDict(extra="forbid", strict=False)

    sync: bool = Field(default=False, description="Make even a batch without rows durable.")


class FixBody(_Request):
    """Where to fix a pin."""

    lsn: Lsn


class NoQuery(_Request):
    """For calls that take no query string."""


class Hit(BaseModel):
    """One neighbour."""

    key: Any = Field(description="The primary key; a list when it has several columns.")
    distance: float | None = Field(description="pgvector's distance; null where it is NaN.")
    columns: dict[str, Any] | None = None
    vector: list[float] | None = None


class SearchAnswerBody(_Answer):
    """Hits by rising distance: ``hits`` for one query, ``results`` for several."""

    hits: list[Hit] | None = None
    results: list[list[Hit]] | None = None
    applied_lsn: Lsn = Field(description="Every commit before this position is in the answer.")
    lag_ms: float | None = Field(
        description="0, or the time since the index had all the source had; null: not heard yet."
    )
    took_ms: float = Field(description="Time in the server.")


class Column(_Request):
    """A column: its name and canonical type."""

    name: str = Field(min_length=1)
    type: str


class Table(_Request):
    """A mirrored vector column and the columns that travel with it."""

    schema_: str = Field(alias="schema", min_length=1)
    table: str = Field(min_length=1)
    relation_id: int = Field(ge=0, le=2**32 - 1, description="The table's oid.")
    vector_column: str = Field(min_length=1)
    vector_type: Literal["vector", "halfvec", "sparsevec", "float4[]", "float8[]"]
    dim: int = Field(ge=1, le=16_000)
    key: list[Column] = Field(min_length=1)
    columns: list[Column] = []


class Params(_Request):
    """How an index is built; what is left out comes from the server's settings."""

    raw_dtype: Literal["float32", "float16"] | None = None
    code_bits: Literal[4, 8] | None = None
    m: int | None = Field(default=None, ge=1, le=16_000)
    nlist: int | None = Field(default=None, ge=1, le=2**20)
    train_from_rows: int | None = Field(default=None, ge=1, le=2**31)
    seed: int = Field(default=0, ge=0, le=2**32 - 1)


class CreateBody(_Request):
    """A new index."""

    name: str
    table: Table
    metric: Literal["l2", "cosine", "ip"] | None = None
    params: Params = Params()
    publication: str | None = None
    slot: str | None = None
    database: str | None = None


class IndexBody(_Answer):
    """An index as it is now."""

    name: str
    phase: Literal["new", "copying", "live", "resync", "failed"]


class IndexList(BaseModel):
    """All indexes, and those that are not served yet."""

    indexes: list[dict[str, Any]]


class AckBody(BaseModel):
    """How far the index has come: on disk, and visible to searches."""

    durable_lsn: Lsn
    applied_lsn: Lsn
    epoch: int


class TrainBody(BaseModel):
    """Whether training was started; false: such work runs already, or there are no rows."""

    started: bool


class SnapshotBody(BaseModel):
    """The position inside the snapshot: a restart needs nothing before it."""

    lsn: Lsn


class PinAnswer(BaseModel):
    """A pin, and the position of what it shows."""

    id: str
    applied_lsn: Lsn


class Health(BaseModel):
    """Whether the server is well, and if not, why."""

    status: Literal["ok", "not-ready"]
    reasons: list[str] = []


class ProblemBody(_Answer):
    """RFC 9457 problem document; every error has this shape."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retry: Literal["never", "later", "resync"]
    request_id: str
