"""The tour: searches over HTTP and in SQL, changes that the next search knows, and recall."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pgsync.lsn import parse_lsn
from server.client import Client

from .entries import Entries
from .in_sql import InSql
from .processes import DemoFailed
from .table import exact_neighbours, row_of, texts_of, vector_text

INDEX = "words"
K = 10
RECALL_QUERIES = 200
SINGLE_INSERTS = 40
HITS_SHOWN = 5
WORD_WIDTH = 32

#: What the distance, a word and the gaps take of a line; the gloss gets the rest.
OTHER_WIDTH = WORD_WIDTH + 12

#: Positions in the further entries: a lover of wine, and the anise plant.
WINE_LOVER, ANISE = 90, 130


@dataclass(frozen=True, slots=True)
class Figures:
    """What the tour measured: rows in the index, recall@10, median commit-to-searchable in ms."""

    rows: int
    recall_at_10: float
    commit_to_searchable_ms: float

    def line(self) -> str:
        """Return the closing line of ``make demo ONCE=1``."""
        return (
            f"demo ok: rows={self.rows} recall@10={self.recall_at_10:.3f} "
            f"commit_to_searchable_ms={self.commit_to_searchable_ms:.1f}"
        )


class Tour:
    """The steps of the tour over one index; each prints what it does and checks what it claims.

    Raises DemoFailed when an answer is not what it must be.
    """

    def __init__(
        self,
        out: Console,
        client: Client,
        connection: psycopg.Connection,
        start: Entries,
        further: Entries,
    ) -> None:
        self._out, self._client, self._connection = out, client, connection
        self._start, self._further = start, further
        self._waits_ms: list[float] = []

    def run(self) -> Figures:
        """Run every step."""
        self._more_like_this()
        self._filtered()
        self._changes()
        self._single_inserts()
        InSql(self._out, self._connection, self._further).run()
        recall = self._recall()
        rows = int(self._client.describe(INDEX)["rows"])
        return Figures(rows, recall, statistics.median(self._waits_ms))

    def _more_like_this(self) -> None:
        whale = self._id_of("whale")
        self._heading("More like this", 'rows near "whale", by meaning')
        self._show(self._hits({"like": whale, "k": HITS_SHOWN}))

    def _filtered(self) -> None:
        whale = self._id_of("whale")
        condition = "letters <= 5"
        self._heading("With a filter", f'the same, but only words WHERE "{condition}"')
        hits = self._hits({"like": whale, "k": HITS_SHOWN, "filter": condition})
        self._show(hits)
        words = [self._texts(hits)[hit["key"]][0] for hit in hits]
        self._expect(len(hits) == HITS_SHOWN, "the filtered search returned fewer rows than match")
        self._expect(all(len(w.split(",")[0]) <= 5 for w in words), "a hit does not match")

    def _changes(self) -> None:
        self._heading("Postgres changes, the next search knows", "rows near “oenology”")
        wine = self._id_of("enology, oenology")
        row = row_of(self._further, WINE_LOVER)
        anise = row_of(self._further, ANISE)
        request = {"like": wine, "k": 3}
        self._line("before", None, self._hits(request))
        insert = "INSERT INTO words VALUES (%s, %s, %s, %s, %s::vector)"
        values = [*row[:4], vector_text(self._further.vectors[WINE_LOVER])]
        hits, wait_ms = self._after(lambda: self._execute(insert, values), request)
        self._line("INSERT", wait_ms, hits)
        self._expect(hits[0]["key"] == row[0], "the inserted row was not found")

        update = (
            "UPDATE words SET word = %s, gloss = %s, letters = %s, embedding = %s::vector"
            " WHERE id = %s"
        )
        values = [*anise[1:4], vector_text(self._further.vectors[ANISE]), row[0]]
        hits, wait_ms = self._after(lambda: self._execute(update, values), request)
        self._line("UPDATE", wait_ms, hits)
        self._expect(row[0] not in _keys(hits), "the row was found by its old vector")
        anise_request = {"vector": self._further.vectors[ANISE].tolist(), "k": 1}
        self._expect(_keys(self._hits(anise_request)) == [row[0]], "the new vector is not found")

        delete = "DELETE FROM words WHERE id = %s"
        hits, wait_ms = self._after(lambda: self._execute(delete, [row[0]]), anise_request)
        self._expect(row[0] not in _keys(hits), "the deleted row was found")
        self._line("DELETE", wait_ms, self._hits(request))

    def _single_inserts(self) -> None:
        insert = "INSERT INTO words VALUES (%s, %s, %s, %s, %s::vector)"
        waits_ms = []
        for position in range(SINGLE_INSERTS):
            row, vector = row_of(self._further, position), self._further.vectors[position]
            values = [*row[:4], vector_text(vector)]
            hits, wait_ms = self._after(
                lambda values=values: self._execute(insert, values),  # type: ignore[misc]
                {"vector": vector.tolist(), "k": 1},
            )
            self._expect(_keys(hits) == [row[0]], "an inserted row was not found")
            waits_ms.append(wait_ms)
        self._out.print(
            f"  {SINGLE_INSERTS} more INSERTs, one by one, each found: commit to searchable "
            f"[bold]{statistics.median(waits_ms):.1f} ms[/] (median)"
        )

    def _recall(self) -> float:
        self._heading("Recall", f"{RECALL_QUERIES} new queries against pgvector's exact search")
        queries = self._further.vectors[-RECALL_QUERIES:]
        answer = self._client.search(INDEX, {"vectors": queries.tolist(), "k": K})
        found = 0
        for query, hits in zip(queries, answer["results"], strict=True):
            found += len(set(exact_neighbours(self._connection, query, K)) & set(_keys(hits)))
        recall = found / (len(queries) * K)
        per_query_ms = answer["took_ms"] / len(queries)
        self._out.print(
            f"  {found:,} of {len(queries) * K:,} true neighbours found: recall@10 "
            f"[bold]{recall:.3f}[/], {per_query_ms:.2f} ms a query in a batch"
        )
        return recall

    def _after(
        self, change: Callable[[], None], request: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], float]:
        """Commit a change and search with its LSN; return the hits and ms since the commit."""
        change()
        committed = time.perf_counter()
        row = self._connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        hits = self._hits({**request, "min_lsn": parse_lsn(row[0])})
        wait_ms = (time.perf_counter() - committed) * 1e3
        self._waits_ms.append(wait_ms)
        return hits, wait_ms

    def _hits(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        hits: list[dict[str, Any]] = self._client.search(INDEX, request)["hits"]
        return hits

    def _execute(self, statement: str, values: Sequence[object]) -> None:
        self._connection.execute(statement.encode(), values)

    def _id_of(self, word: str) -> int:
        return self._start.first_id + self._start.words.index(word)

    def _texts(self, hits: Sequence[dict[str, Any]]) -> dict[int, tuple[str, str]]:
        return texts_of(self._connection, _keys(hits))

    def _heading(self, title: str, what: str) -> None:
        self._out.print(f"\n[bold]{title}[/]  [dim]{what}[/]")

    def _show(self, hits: Sequence[dict[str, Any]]) -> None:
        texts = self._texts(hits)
        lines = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
        lines.add_column(justify="right", style="cyan", no_wrap=True, min_width=7)
        lines.add_column(overflow="ellipsis", no_wrap=True, max_width=WORD_WIDTH)
        width = max(20, min(66, self._out.width - OTHER_WIDTH))
        lines.add_column(overflow="ellipsis", no_wrap=True, max_width=width, style="dim")
        for hit in hits:
            word, gloss = texts[hit["key"]]
            lines.add_row(f"  {hit['distance']:.3f}", escape(word), escape(gloss))
        self._out.print(lines)

    def _line(self, change: str, wait_ms: float | None, hits: Sequence[dict[str, Any]]) -> None:
        texts = self._texts(hits)
        words = ", ".join(
            f"{escape(texts[hit['key']][0].split(',')[0])} [cyan]{hit['distance']:.3f}[/]"
            for hit in hits
        )
        waited = "" if wait_ms is None else f"{wait_ms:.1f} ms"
        self._out.print(f"  {change:<7}{waited:>9}   {words}")

    def _expect(self, true: bool, otherwise: str) -> None:
        if not true:
            raise DemoFailed(f"the tour found something wrong: {otherwise}")


def _keys(hits: Sequence[dict[str, Any]]) -> list[int]:
    return [hit["key"] for hit in hits]
