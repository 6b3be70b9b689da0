"""SourceWatch: one look at the catalog for everything that goes wrong without a message.

Postgres tells a replication client nothing when the table is rewritten, a partition is attached
or the publication loses the table (Postgres 18 then skips changes silently). So the sidecar looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from .connections import translated
from .errors import ResyncNeeded
from .lsn import parse_lsn
from .planning import TableShape
from .table import TableSpec

# A catalog row newer than the slot's catalog_xmin was written after the position that the slot
# will stream from. Age counts transactions backwards from now, so newer means a smaller age; a
# relfilenode that equals the oid was never rewritten. Frozen rows keep their xmin, but for those
# of initdb, whose age is the largest possible.
_LOOK_SQL = """
WITH family AS (
    SELECT c.oid, c.relfilenode, c.relkind, c.xmin
    FROM pg_catalog.pg_class c
    WHERE c.oid = %(oid)s
       OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(%(oid)s::oid))
), horizon AS (
    SELECT age(s.catalog_xmin) AS age, s.wal_status
    FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = %(slot)s
), published AS (
    SELECT p.oid, p.xmin FROM pg_catalog.pg_publication p WHERE p.pubname = %(publication)s
), written AS (
    SELECT age(f.xmin) AS age FROM family f WHERE f.relkind = 'r' AND f.relfilenode <> f.oid
  UNION ALL
    SELECT age(i.xmin) FROM pg_catalog.pg_inherits i
    WHERE i.inhparent IN (SELECT oid FROM family WHERE relkind = 'p')
  UNION ALL
    SELECT age(a.xmin) FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = %(oid)s AND a.attname = %(vector)s AND NOT a.attisdropped
  UNION ALL
    SELECT age(xmin) FROM published
  UNION ALL
    SELECT age(r.xmin) FROM pg_catalog.pg_publication_rel r JOIN published p ON p.oid = r.prpubid
    WHERE r.prrelid = %(oid)s
)
SELECT
  (SELECT array_agg(ARRAY[f.oid::int8, f.relfilenode::int8] ORDER BY f.oid)
   FROM family f WHERE f.relkind = 'r'),
  (SELECT ARRAY[a.attnum::int8, a.atttypid::int8, a.atttypmod::int8]
   FROM pg_catalog.pg_attribute a
   WHERE a.attrelid = %(oid)s AND a.attname = %(vector)s AND NOT a.attisdropped),
  EXISTS (SELECT FROM pg_catalog.pg_publication_tables pt
          JOIN pg_catalog.pg_namespace n ON n.nspname = pt.schemaname
          JOIN pg_catalog.pg_class c ON c.relname = pt.tablename AND c.relnamespace = n.oid
          WHERE pt.pubname = %(publication)s AND c.oid = %(oid)s),
  coalesce((SELECT min(w.age) <= (SELECT h.age FROM horizon h) FROM written w), false),
  (SELECT h.wal_status FROM horizon h),
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
       ELSE pg_current_wal_flush_lsn() END::text
"""


@dataclass(frozen=True, slots=True)
class SourceLook:
    """What one look found.

    ``altered`` says that table, column or publication have changed after the slot's position;
    ``flushed_lsn`` is how far the source's log was on disk.
    """

    shape: TableShape
    published: bool
    altered: bool
    wal_status: str | None
    flushed_lsn: int


class SourceWatch:
    """Looks at one table, its publication and its slot over an ordinary connection."""

    def __init__(
        self, conn: psycopg.Connection[TupleRow], table: TableSpec, publication: str, slot: str
    ) -> None:
        self._conn = conn
        self._asked = {
            "oid": table.relation_id,
            "vector": table.vector_column,
            "publication": publication,
            "slot": slot,
        }

    def look(self) -> SourceLook:
        """Return what the catalog says now; raise SourceError."""
        with translated("look after the mirrored table"):
            row: Any = self._conn.execute(_LOOK_SQL, self._asked).fetchone()
        storage, vector, published, altered, wal_status, flushed = row
        shape = TableShape(
            tuple((int(oid), int(node)) for oid, node in storage or ()),
            (int(vector[0]), int(vector[1]), int(vector[2])) if vector else None,
        )
        return SourceLook(shape, published, altered, wal_status, parse_lsn(flushed))

    def require_stream(self, look: SourceLook) -> None:
        """Raise ResyncNeeded when the stream can no longer bring all changes."""
        if not look.published:
            raise ResyncNeeded(
                f"publication {self._asked['publication']} no longer carries the table: "
                "changes are not sent any more"
            )
        if look.wal_status in {None, "lost"}:
            raise ResyncNeeded(f"replication slot {self._asked['slot']} is missing or lost")
