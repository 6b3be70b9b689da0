"""The demonstration's rows: shipped whole, and loaded as pgvector would print them."""

from __future__ import annotations

import numpy as np

from server.demo.entries import DIM, Entries, further_entries, table_entries
from server.demo.table import create_and_load, exact_neighbours, texts_of, vector_text
from tests.fix_postgres import Database


def test_ten_thousand_entries_and_further_ones_with_ids_that_follow() -> None:
    start, further = table_entries(), further_entries()
    assert (len(start), len(further)) == (10_000, 300)
    assert further.first_id == start.first_id + len(start)
    for entries in (start, further):
        assert entries.vectors.shape == (len(entries), DIM)
        assert np.allclose(np.linalg.norm(entries.vectors, axis=1), 1, atol=1e-5)
        assert all(entries.words)
        assert all(entries.glosses)


def test_loads_every_row_with_its_own_vector(database18: Database) -> None:
    everything = table_entries()
    entries = Entries(1, everything.words[:700], everything.glosses[:700], everything.vectors[:700])
    seen: list[int] = []
    with database18.connect() as connection:
        create_and_load(connection, entries, seen.append)
        (count,) = connection.execute("SELECT count(*) FROM words").fetchone() or (0,)
        text = vector_text(entries.vectors[41])
        same = connection.execute(
            "SELECT id FROM words WHERE embedding = %s::vector", [text]
        ).fetchall()
        nearest = exact_neighbours(connection, entries.vectors[41], 3)
        texts = texts_of(connection, [42])
    assert (count, seen) == (700, [500])
    assert same == [(42,)]
    assert texts == {42: (entries.words[41], entries.glosses[41])}
    order = np.argsort(1 - entries.vectors @ entries.vectors[41], kind="stable")[:3]
    assert nearest == [int(position) + 1 for position in order]
