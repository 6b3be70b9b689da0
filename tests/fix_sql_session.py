"""SQL sessions over hand-fed indexes, without a wire: statements in, rows and tags out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgsync.changes import BatchKind, Op
from pgsync.table import ColumnSpec, VectorType
from server.auth import Scope
from server.catalog import Catalog
from server.mirror import Mirror, MirrorLike, MirrorOptions
from server.settings import Settings
from server.spec import IndexSpec, Metric
from server.sql.answers import Answer, Column
from server.sql.errors import SqlError
from server.sql.login import Login
from server.sql.session import Session, SqlSessions
from tests.change_batches import Change, change_batch, make_spec

LOGIN = Login("anybody", "vm", Scope.READ, 4711, {})

#: Filter columns of ``make_index``; every row has some of them NULL now and then.
COLUMNS = (
    ColumnSpec("tenant", "int4"),
    ColumnSpec("name", "text"),
    ColumnSpec("price", "float8"),
    ColumnSpec("tags", "text[]"),
    ColumnSpec("made", "timestamptz"),
    ColumnSpec("owner", "uuid"),
    ColumnSpec("sold", "bool"),
)


@dataclass(frozen=True, slots=True)
class Said:
    """What one statement answered."""

    tag: str
    columns: tuple[Column, ...] | None
    rows: list[tuple[Any, ...]] | None
    notices: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [column.name for column in self.columns or ()]

    def column(self, place: int = 0) -> list[Any]:
        """Return the values of one column."""
        assert self.rows is not None
        return [row[place] for row in self.rows]


class World:
    """A server of a catalog, threads and settings only."""

    def __init__(self, data_dir: Path, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.catalog = Catalog(data_dir, MirrorOptions(background=False))
        self.catalog.load()
        self.searchers = ThreadPoolExecutor(2)
        self.flushed_lsn = 0
        self.waits: list[tuple[int, float]] = []

    async def wait_applied(self, mirror: MirrorLike, lsn: int, timeout_s: float) -> None:
        """Wait in a thread; the port itself waits without one."""
        self.waits.append((lsn, timeout_s))
        await asyncio.to_thread(mirror.wait_applied, lsn, timeout_s)

    async def source_lsn(self) -> int:
        """Return what the test says."""
        return self.flushed_lsn

    def close(self) -> None:
        """Stop the threads, close the indexes."""
        self.searchers.shutdown()
        self.catalog.close()


class Talk:
    """One session, talked to from a test that knows no event loop."""

    def __init__(self, sessions: SqlSessions, runner: asyncio.Runner, batch: int = 7) -> None:
        self.session: Session = sessions.open(LOGIN)
        self._runner, self._batch = runner, batch

    @property
    def status(self) -> str:
        """The transaction's status."""
        return self.session.status

    def __call__(self, text: str, *parameters: Any, oids: Sequence[int] = ()) -> Said:
        """Run one statement and read all its rows, a few at a time."""
        return self._runner.run(self._run(text, parameters, oids))

    def rows(self, text: str, *parameters: Any, oids: Sequence[int] = ()) -> list[Any]:
        """Return the rows of a query; those of one column as plain values."""
        found = self(text, *parameters, oids=oids).rows
        assert found is not None
        return [row[0] if len(row) == 1 else row for row in found]

    def error(self, text: str, *parameters: Any) -> SqlError:
        """Return the error that a statement ends in."""
        try:
            self(text, *parameters)
        except SqlError as error:
            return error
        raise AssertionError(f"no error: {text}")

    def script(self, text: str) -> list[Said]:
        """Run the statements of a simple query."""
        return [self(one) for one in self.session.statements(text)]

    async def _run(self, text: str, parameters: Sequence[Any], oids: Sequence[int]) -> Said:
        prepared = await self.session.prepare(text, oids)
        answer = await self.session.run(prepared, parameters)
        return Said(answer.tag, prepared.columns, await self._read(answer), answer.notices)

    async def _read(self, answer: Answer) -> list[tuple[Any, ...]] | None:
        if answer.rows is None:
            return None
        rows: list[tuple[Any, ...]] = []
        while True:
            part = await answer.rows.fetch(self._batch)
            rows += part
            if len(part) < self._batch:
                return rows


@dataclass(slots=True)
class Desk:
    """A world with one filled index, and talks with it."""

    world: World
    sessions: SqlSessions
    runner: asyncio.Runner
    spec: IndexSpec
    rows: list[dict[str, Any]]
    vectors: NDArray[np.float32]

    def talk(self, batch: int = 7) -> Talk:
        """Open a session."""
        return Talk(self.sessions, self.runner, batch)

    @property
    def mirror(self) -> Mirror:
        """The index."""
        mirror = self.world.catalog.get(self.spec.name)
        assert isinstance(mirror, Mirror)
        return mirror

    def change(self, lsn: int, changes: Sequence[Change]) -> None:
        """Apply a transaction that committed at ``lsn``."""
        placed = [
            Change(c.op, c.key, c.old, c.state, c.vector, c.columns, lsn, number)
            for number, c in enumerate(changes)
        ]
        body = change_batch(self.spec, BatchKind.CHANGES, placed, watermark=lsn + 1)
        self.mirror.submit(body)


@contextmanager
def desk(
    path: Path,
    n_rows: int = 300,
    *,
    seed: int = 1,
    settings: Settings | None = None,
    metric: Metric = "l2",
    vector_type: VectorType = "vector",
    **spec: Any,
) -> Iterator[Desk]:
    """Make a world with the index ``items`` of random rows; applied up to LSN 100."""
    made = make_spec("items", **{"columns": COLUMNS, **spec})
    table = replace(made.table, vector_type=vector_type)
    made = replace(made, metric=metric, table=table)
    rows, vectors = random_rows(n_rows, made, seed)
    world = World(path, settings)
    mirror = world.catalog.create(made)
    names = made.table.key[0].name
    copied = [
        Change(Op.UPSERT, row[names], vector=tuple(vector.tolist()), columns=_filters(made, row))
        for row, vector in zip(rows, vectors, strict=True)
    ]
    for kind, changes in (
        (BatchKind.COPY_BEGIN, []),
        (BatchKind.COPY, copied),
        (BatchKind.COPY_END, []),
    ):
        mirror.submit(change_batch(made, kind, changes, watermark=100))
    with asyncio.Runner() as runner:
        try:
            yield Desk(world, SqlSessions(world), runner, made, rows, vectors)
        finally:
            world.close()


def _filters(spec: IndexSpec, row: dict[str, Any]) -> dict[str, Any]:
    return {column.name: row[column.name] for column in spec.table.columns}


def random_rows(
    n_rows: int, spec: IndexSpec, seed: int
) -> tuple[list[dict[str, Any]], NDArray[np.float32]]:
    """Return rows (values as ARROW_TYPES has them) and their vectors f32[n, d]."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n_rows, spec.table.dim)).astype(np.float32)
    words = ["red", "Red", "green", "a%b", "o'neil", "", "日本"]
    rows = []
    for number in range(n_rows):
        known: dict[str, Any] = {
            "id": number if spec.table.key[0].type != "text" else f"k{number}",
            "tenant": int(rng.integers(0, 20)),
            "name": words[int(rng.integers(len(words)))],
            "price": float(rng.integers(0, 200)) / 4,
            "tags": [words[int(rng.integers(len(words)))] for _ in range(int(rng.integers(3)))],
            "made": int(rng.integers(0, 10**15)),
            "owner": rng.bytes(16),
            "sold": bool(rng.integers(2)),
        }
        for name in ("tenant", "name", "price", "tags", "made", "owner", "sold"):
            if rng.random() < 0.1:
                known[name] = None
        rows.append(known)
    return rows, vectors


def literal(vector: Any) -> str:
    """Return a vector as pgvector writes it, in quotes."""
    return "'[" + ",".join(repr(float(x)) for x in vector) + "]'"
