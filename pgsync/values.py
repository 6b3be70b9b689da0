"""RowDecoder: binary rows of one table, as Postgres writes them, to Arrow record batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from .table import TableSpec


class RowDecoder:
    """Decodes rows of one table that carry its key columns, vector column and filter columns."""

    def __init__(self, table: TableSpec) -> None:
        self.table = table

    @property
    def copy_columns(self) -> tuple[str, ...]:
        """Return the column names in the order in which COPY must select them."""
        table = self.table
        return (
            *(column.name for column in table.key),
            table.vector_column,
            *(column.name for column in table.columns),
        )

    def decode_copy_rows(
        self,
        buffer: bytes | bytearray | memoryview,
        *,
        commit_lsn: int,
        first_ordinal: int = 0,
        row_starts: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]] | None = None,
    ) -> pa.RecordBatch:
        """Return COPY binary tuples as UPSERT rows in the schema of ``change_schema(table)``.

        ``buffer`` holds concatenated tuples without the COPY header and trailer. It may be reused as
        soon as this returns. ``row_starts`` are the byte offsets of the tuples, ascending from 0; a
        COPY reader knows them, as each CopyData message is one tuple. Without them tuples of
        different lengths are walked one by one. Ordinals count up from ``first_ordinal``.
        Raises DecodeError for anything that is not such tuples.
        """
        raise RuntimeError("not written yet")
