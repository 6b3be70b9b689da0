"""The tour's part in SQL: the index as a foreign table of the demonstration's own database."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import psycopg
from rich.console import Console
from rich.markup import escape

from .entries import Entries
from .processes import DemoFailed
from .table import row_of, vector_text

HITS = 5
WORD_WIDTH = 24

#: A position in the further entries that the rest of the tour leaves alone.
WRITTEN = 131

JOIN = """\
SELECT w.word, w.gloss, s.distance
FROM vecmirror.words AS s JOIN words AS w USING (id)
WHERE s.query = (SELECT embedding FROM words WHERE word = %s)
  AND s.letters <= 6 AND w.gloss LIKE '%%animal%%'
ORDER BY s.distance LIMIT 5"""

OWN_WRITE = """\
SELECT id FROM vecmirror.words
WHERE query = %s::vector AND min_lsn = (SELECT pg_current_wal_flush_lsn())
ORDER BY distance LIMIT 1"""


@dataclass(frozen=True, slots=True)
class InSql:
    """Searches from inside Postgres. ``run`` raises DemoFailed when an answer is wrong."""

    out: Console
    connection: psycopg.Connection
    further: Entries

    def run(self) -> None:
        """Join the index with the live table, then read an own write."""
        self._join()
        self._own_write()

    def _join(self) -> None:
        self.out.print("\n[bold]In SQL[/]  [dim]the same index, as a foreign table[/]")
        shown = JOIN.replace("%s", "'whale'").replace("%%", "%")
        self.out.print("".join(f"  {line}\n" for line in shown.split("\n")), style="cyan", end="")
        self._ask(JOIN, ["whale"])  # the first one connects
        rows, took_ms = self._ask(JOIN, ["whale"])
        for word, gloss, distance in rows:
            line = f"  [cyan]{distance:.3f}[/]  {escape(word[:WORD_WIDTH]):<{WORD_WIDTH}} "
            self.out.print(f"{line} [dim]{escape(gloss)}[/]", no_wrap=True, overflow="ellipsis")
        self.out.print(f"  {len(rows)} rows, planned and run in {took_ms:.1f} ms")
        matching = all("animal" in gloss for _, gloss, _ in rows)
        ordered = sorted(rows, key=lambda row: row[2]) == rows
        if len(rows) != HITS or not matching or not ordered:
            raise DemoFailed("the tour found something wrong: a join in SQL returned other rows")

    def _own_write(self) -> None:
        row, vector = row_of(self.further, WRITTEN), self.further.vectors[WRITTEN]
        insert = "INSERT INTO words VALUES (%s, %s, %s, %s, %s::vector)"
        self.connection.execute(insert, [*row[:4], vector_text(vector)])
        try:
            rows, took_ms = self._ask(OWN_WRITE, [vector_text(vector)])
        finally:
            self.connection.execute("DELETE FROM words WHERE id = %s", [row[0]])
        if rows != [(row[0],)]:
            raise DemoFailed("the tour found something wrong: SQL did not find its own write")
        self.out.print(
            "  an INSERT, and a search with min_lsn = (SELECT pg_current_wal_flush_lsn()): "
            f"found after [bold]{took_ms:.1f} ms[/]",
            soft_wrap=True,
        )

    def _ask(self, query: str, parameters: list[str]) -> tuple[list[Any], float]:
        """Return rows, and the milliseconds that they took."""
        asked = time.perf_counter()
        rows = self.connection.execute(query.encode(), parameters).fetchall()
        return rows, (time.perf_counter() - asked) * 1e3
