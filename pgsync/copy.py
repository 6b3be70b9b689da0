"""The copy of a table under an exported snapshot: binary COPY of page ranges, in parallel.

Every worker holds one connection in one repeatable-read transaction with the slot's snapshot, so
all ranges together are the table at the slot's consistent point, and what commits during the copy
comes from the slot afterwards. https://www.postgresql.org/docs/current/sql-copy.html

Invariants:

- Every row of the snapshot is copied exactly once: ranges do not overlap, the last one is open.
- Row security never hides rows: the copy fails rather than copy a part of the table.
- Ordinals count up in the order in which batches are yielded, whatever worker they come from.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.rows import TupleRow

from .changes import BatchKind, ChangeBatch
from .connections import connect, raise_for_result, source_error, translated
from .errors import DecodeError, SourceError
from .table import TableSpec
from .values import RowDecoder

#: Bytes of tuples in one batch: small enough to stay in the cache, large enough for NumPy.
BATCH_BYTES = 4 << 20
MAX_BATCH_ROWS = 16_384

#: Bound of decoded vectors in one batch: a sparse one is far larger here than on the wire.
DECODED_BYTES = 16 << 20

#: One COPY command costs about a millisecond; a range of 64 MiB takes hundreds of them.
RANGE_BYTES = 64 << 20

#: Decoded batches that wait for the server, over all workers.
QUEUED_BATCHES = 4

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_TRAILER = b"\xff\xff"
_HEADER_BYTES = len(_SIGNATURE) + 8

_SIZE_SQL = """
SELECT c.relkind, pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int8,
       current_setting('block_size')::int8,
       CASE WHEN c.relkind = 'p' THEN (
           SELECT coalesce(sum(greatest(p.reltuples, 0)), 0)
           FROM pg_catalog.pg_partition_tree(c.oid) t
           JOIN pg_catalog.pg_class p ON p.oid = t.relid WHERE t.isleaf)
       WHEN c.relpages > 0 AND c.reltuples >= 0 THEN c.reltuples / c.relpages
           * (pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int8)
       ELSE -1 END::int8
FROM pg_catalog.pg_class c WHERE c.oid = %s
"""


@dataclass(frozen=True, slots=True)
class PageRange:
    """Pages [first, end) of the table; ``end`` None means to the end of the table."""

    first: int
    end: int | None


def page_ranges(pages: int, pages_per_range: int) -> list[PageRange]:
    """Cut a table of ``pages`` pages; the last range is open, for the table may have grown."""
    starts = list(range(0, max(pages, 1), pages_per_range))
    return [PageRange(first, end) for first, end in zip(starts, [*starts[1:], None], strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRequest:
    """What to copy, and the figures that every batch of it carries.

    ``consistent_point`` is the slot's; the rows count as committed there. ``row_filter`` is the
    publication's own WHERE expression, as Postgres prints it.
    """

    dsn: str
    table: TableSpec
    snapshot: str
    consistent_point: int
    system_id: str
    epoch: int
    row_filter: str | None = None
    workers: int = 2


class TableCopy:
    """A running copy: iterate over its batches, and close it. ``rows_total`` is an estimate."""

    def __init__(self, request: CopyRequest) -> None:
        """Open the connections and import the snapshot in all of them; raise SourceError.

        After that the connection that exported the snapshot may be closed.
        """
        self._request = request
        self._stop = threading.Event()
        self._results: queue.Queue[pa.RecordBatch | Exception | None] = queue.Queue(QUEUED_BATCHES)
        self._connections: list[psycopg.Connection[TupleRow]] = []
        self._threads: list[threading.Thread] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def batches(self) -> Iterator[ChangeBatch]:
        """Yield the table as COPY batches of bounded size; raise SourceError."""
        self._start()
        ordinal, running = 0, len(self._threads)
        while running:
            result = self._results.get()
            if result is None:
                running -= 1
            elif isinstance(result, Exception):
                raise result
            else:
                yield self._batch(result, ordinal)
                ordinal += result.num_rows

    def close(self) -> None:
        """Stop the workers and close their connections; what they run is cancelled."""
        self._stop.set()
        for conn in self._connections:
            if any(thread.is_alive() for thread in self._threads):
                _cancel(conn)
        for thread in self._threads:
            while thread.is_alive():
                _discard(self._results)
                thread.join(0.02)
        for conn in self._connections:
            conn.close()

    def __enter__(self) -> TableCopy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        first = self._connect()
        with translated("measure the table"):
            row = first.execute(_SIZE_SQL, (self._request.table.relation_id,)).fetchone()
        if row is None:
            raise SourceError(f"table {self._request.table.qualified_name} is gone")
        kind, pages, block_size, estimate = row
        # A partitioned table has no pages of its own: it is copied whole, with its partitions.
        # The publication of any other table names it alone, without tables that inherit from it.
        self._only = kind != "p"
        self.rows_total = self._estimate(first, estimate)
        per_range = RANGE_BYTES // block_size
        ranges = page_ranges(pages, per_range) if self._only else [PageRange(0, None)]
        self._ranges: queue.SimpleQueue[PageRange] = queue.SimpleQueue()
        for each in ranges:
            self._ranges.put(each)
        for _ in range(min(self._request.workers, len(ranges)) - 1):
            self._connect()

    def _connect(self) -> psycopg.Connection[TupleRow]:
        conn = connect(self._request.dsn)
        self._connections.append(conn)
        with translated("import the slot's snapshot"):
            conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            snapshot = sql.Literal(self._request.snapshot)
            conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(snapshot))
            conn.execute("SET LOCAL row_security = off")
        return conn

    def _estimate(self, conn: psycopg.Connection[TupleRow], estimate: int) -> int:
        """Return about how many rows will be copied; the planner knows of filters and pages."""
        if estimate >= 0 and self._request.row_filter is None:
            return estimate
        with translated("estimate the table"):
            query = sql.SQL("EXPLAIN (FORMAT JSON) {}").format(
                _select(self._request, PageRange(0, None), self._only)
            )
            row = conn.execute(query).fetchone()
        plan: Any = row[0] if row else []
        return int(plan[0]["Plan"]["Plan Rows"]) if plan else 0

    def _start(self) -> None:
        for number, conn in enumerate(self._connections):
            thread = threading.Thread(
                target=self._work, args=(conn,), name=f"copy-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _work(self, conn: psycopg.Connection[TupleRow]) -> None:
        """Copy ranges until none is left; the last thing put is None or the error."""
        try:
            reader = _RangeReader(self._request, conn, self._only)
            while not self._stop.is_set():
                try:
                    pages = self._ranges.get_nowait()
                except queue.Empty:
                    break
                for rows in reader.read(pages):
                    self._put(rows)
                    if self._stop.is_set():
                        return
            self._put(None)
        except psycopg.Error as error:
            self._put(source_error(error, f"copy {self._request.table.qualified_name}"))
        except Exception as error:
            self._put(error)

    def _put(self, result: pa.RecordBatch | Exception | None) -> None:
        while not self._stop.is_set():
            try:
                self._results.put(result, timeout=0.1)
                return
            except queue.Full:
                continue

    def _batch(self, rows: pa.RecordBatch, ordinal: int) -> ChangeBatch:
        numbers = np.arange(ordinal, ordinal + rows.num_rows, dtype=np.uint32)
        position = rows.schema.get_field_index("ordinal")
        field = rows.schema.field(position)
        point = self._request.consistent_point
        return ChangeBatch(
            kind=BatchKind.COPY,
            epoch=self._request.epoch,
            watermark_lsn=point,
            source_lsn=point,
            system_id=self._request.system_id,
            rows=rows.set_column(position, field, pa.array(numbers)),
            rows_total=self.rows_total,
        )


class _RangeReader:
    """Reads ranges over one connection into one reused buffer."""

    def __init__(
        self, request: CopyRequest, conn: psycopg.Connection[TupleRow], only: bool
    ) -> None:
        self._request = request
        self._conn = conn
        self._only = only
        self._decoder = RowDecoder(request.table)
        self._buffer = bytearray(BATCH_BYTES)
        self._used = 0
        self._starts: list[int] = []
        most = DECODED_BYTES // max(self._decoder.vector_bytes, 1)
        self._max_rows = max(1, min(MAX_BATCH_ROWS, most))

    def read(self, pages: PageRange) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a range. Raises psycopg.Error and DecodeError."""
        query = _select(self._request, pages, self._only)
        command = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(query)
        # libpq directly: psycopg's own copy object costs several times as much per row.
        pgconn = self._conn.pgconn
        raise_for_result(pgconn.exec_(command.as_bytes(self._conn)))
        yield from self._rows()
        for result in iter(pgconn.get_result, None):
            raise_for_result(result)

    def _rows(self) -> Iterator[pa.RecordBatch]:
        """Take CopyData messages: one tuple each, the first one behind the header."""
        get_copy_data = self._conn.pgconn.get_copy_data
        skip = _HEADER_BYTES
        while True:
            size, message = get_copy_data(0)
            if size < 0:
                break
            if skip:
                message = _without_header(message)
                skip = 0
            if not len(message) or message == _TRAILER:
                continue
            self._append(message)
            if self._used >= BATCH_BYTES or len(self._starts) >= self._max_rows:
                yield self._decode()
        if self._starts:
            yield self._decode()

    def _append(self, message: memoryview) -> None:
        """Lay a tuple into the buffer, which never shrinks: fresh pages cost more than copies."""
        end = self._used + len(message)
        if end > len(self._buffer):
            larger = bytearray(max(end, 2 * len(self._buffer)))
            larger[: self._used] = self._buffer[: self._used]
            self._buffer = larger
        self._buffer[self._used : end] = message
        self._starts.append(self._used)
        self._used = end

    def _decode(self) -> pa.RecordBatch:
        tuples = memoryview(self._buffer)[: self._used]
        rows = self._decoder.decode_copy_rows(
            tuples, commit_lsn=self._request.consistent_point, row_starts=self._starts
        )
        self._used = 0
        self._starts.clear()
        return rows


def _select(request: CopyRequest, pages: PageRange, only: bool) -> sql.Composed:
    table = request.table
    conditions: list[sql.Composable] = []
    if pages.first:
        conditions.append(_ctid_bound(">=", pages.first))
    if pages.end is not None:
        conditions.append(_ctid_bound("<", pages.end))
    if request.row_filter is not None:
        conditions.append(sql.SQL("({})").format(sql.SQL(request.row_filter)))
    where = sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")
    columns = RowDecoder(table).copy_columns
    return sql.SQL("SELECT {} FROM {}{}{}").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL("ONLY " if only else ""),
        sql.Identifier(table.schema, table.table),
        where,
    )


def _ctid_bound(operator: str, page: int) -> sql.Composed:
    return sql.SQL("ctid {} {}").format(
        sql.SQL(operator),
        sql.Literal(f"({page},0)"),
    )


def _without_header(message: memoryview) -> memoryview:
    """Cut the header off the first message: signature, flags, length of the extension."""
    if bytes(message[: len(_SIGNATURE)]) != _SIGNATURE or len(message) < _HEADER_BYTES:
        raise DecodeError("copy header", 0, "not the signature of a binary COPY")
    extension = int.from_bytes(message[_HEADER_BYTES - 4 : _HEADER_BYTES], "big")
    return message[_HEADER_BYTES + extension :]


def _cancel(conn: psycopg.Connection[Any]) -> None:
    # The connection is closed next; the server notices that as well.
    with contextlib.suppress(psycopg.Error):
        conn.cancel_safe(timeout=2.0)


def _discard(results: queue.Queue[Any]) -> None:
    with contextlib.suppress(queue.Empty):
        results.get_nowait()
