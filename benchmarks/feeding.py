"""A mirror fed without Postgres: change batches made of arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpu import Metric
from pgsync.changes import BatchKind, ChangeBatch, Op, change_schema
from pgsync.table import ColumnSpec, TableSpec
from server.mirror import Mirror, MirrorOptions
from server.spec import BuildParams, IndexSpec

#: Rows of one batch of a copy.
COPY_ROWS = 16_384


class Feeder:
    """A mirror and the position of its imaginary source."""

    def __init__(self, path: Path, dim: int, metric: Metric, options: MirrorOptions) -> None:
        table = TableSpec(
            schema="public",
            table="rows",
            relation_id=1,
            vector_column="vector",
            vector_type="vector",
            dim=dim,
            key=(ColumnSpec("id", "int8"),),
            columns=(),
        )
        self.spec = IndexSpec(name="rows", table=table, metric=metric, params=BuildParams())
        self.mirror = Mirror(path, self.spec, options)
        self._lsn = 1000

    def copy(self, vectors: NDArray[np.float32]) -> None:
        """Copy rows with keys 0, 1, ..."""
        self._send(BatchKind.COPY_BEGIN)
        for first in range(0, len(vectors), COPY_ROWS):
            part = vectors[first : first + COPY_ROWS]
            self._send(BatchKind.COPY, np.arange(first, first + len(part)), part)
        self._send(BatchKind.COPY_END)

    def commit(self, keys: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Commit one transaction that inserts or updates rows; visible on return."""
        self._lsn += 10
        self._send(BatchKind.CHANGES, keys, vectors)

    def _send(
        self,
        kind: BatchKind,
        keys: NDArray[np.int64] | None = None,
        vectors: NDArray[np.float32] | None = None,
    ) -> None:
        if keys is None or vectors is None:
            keys, vectors = np.empty(0, np.int64), np.empty((0, self.spec.table.dim), np.float32)
        ends = kind in (BatchKind.COPY_END, BatchKind.CHANGES)
        batch = ChangeBatch(
            kind=kind,
            epoch=1,
            watermark_lsn=self._lsn + 1 if ends else 0,
            source_lsn=self._lsn + 1,
            system_id="1",
            rows=_upserts(self.spec.table, keys, vectors, self._lsn),
        )
        self.mirror.submit(batch.to_ipc())


@contextmanager
def opened(dim: int, metric: Metric, options: MirrorOptions) -> Iterator[Feeder]:
    """Give a feeder of an empty mirror in a temporary folder."""
    with TemporaryDirectory() as folder:
        feeder = Feeder(Path(folder), dim, metric, options)
        try:
            yield feeder
        finally:
            feeder.mirror.close()


def _upserts(
    table: TableSpec, keys: NDArray[np.int64], vectors: NDArray[np.float32], lsn: int
) -> pa.RecordBatch:
    n, schema = len(keys), change_schema(table)
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    arrays: dict[str, Any] = {
        "op": pa.array(np.full(n, Op.UPSERT, np.uint8)),
        "commit_lsn": pa.array(np.full(n, lsn, np.uint64)),
        "ordinal": pa.array(np.arange(n, dtype=np.uint32)),
        "vector_state": pa.array(np.zeros(n, np.uint8)),
        "vector": pa.FixedSizeListArray.from_arrays(flat, table.dim),
        "unchanged": pa.array(np.zeros(n, np.uint64)),
        "key:id": pa.array(keys),
    }
    columns = [arrays.get(field.name, pa.nulls(n, field.type)) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
