"""Whatever arrives, in whatever pieces and however often, the index holds what the table holds."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pgsync.changes import BatchKind, Op, VectorState
from pgsync.table import ColumnSpec
from server.compaction import Compaction
from server.mirror import Mirror, MirrorOptions
from tests.change_batches import COLUMNS, Change, Table, change_batch, contents, make_spec

KEYS: dict[str, tuple[tuple[ColumnSpec, ...], list[Any]]] = {
    "int8": ((ColumnSpec("id", "int8"),), list(range(-2, 4))),
    "text": ((ColumnSpec("id", "text"),), ["", "a", "b", "ä", "c'"]),
    "uuid": ((ColumnSpec("id", "uuid"),), [uuid.UUID(int=n) for n in range(5)]),
    "composite": (
        (ColumnSpec("a", "int4"), ColumnSpec("b", "text"), ColumnSpec("c", "uuid")),
        [(n, t, uuid.UUID(int=n)) for n in (0, 1) for t in ("x", "y")],
    ),
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": st.none() | st.sampled_from(["", "red", "blue"]),
    "tags": st.none() | st.lists(st.none() | st.sampled_from(["u", "v"]), max_size=2),
    "price": st.none() | st.sampled_from([-0.0, 1.5, float("inf")]),
    "owner": st.none() | st.sampled_from([bytes(16), b"\1" * 16]),
    "sizes": st.none() | st.lists(st.none() | st.integers(-2, 2), max_size=2),
    "fine": st.none() | st.booleans(),
}
TOASTED = ("name", "tags", "sizes")
EXCLUDED = [VectorState.NULL, VectorState.WRONG_DIMENSION, VectorState.NOT_FINITE]
VECTORS = st.tuples(*[st.integers(-2, 2).map(float)] * 3)
OPTIONS = MirrorOptions(segment_bytes=20_000, background=False)


class MirrorMachine(RuleBasedStateMachine):
    """A source that commits transactions, a network that splits and repeats, a server that dies."""

    @initialize(kind=st.sampled_from(sorted(KEYS)))
    def open(self, kind: str) -> None:
        key, self.keys = KEYS[kind]
        self.spec = make_spec(key=key)
        self.directory = tempfile.TemporaryDirectory()
        self.mirror = Mirror(Path(self.directory.name), self.spec, OPTIONS)
        self.table = Table()
        self.lsn, self.epoch = 1000, 0
        #: Transactions sent or to be sent again: what a sidecar would stream after a restart.
        self.log: list[Change] = []
        self.answered = 0
        self.compaction: Compaction | None = None
        self.copy([])

    @rule(rows=st.lists(st.tuples(st.integers(0, 9), VECTORS), max_size=4))
    def copy(self, rows: list[tuple[int, tuple[float, ...]]]) -> None:
        """Copy the table anew, with some rows twice."""
        self.epoch += 1
        self.lsn += 10
        self.table = Table()
        self._send(BatchKind.COPY_BEGIN)
        before = contents(self.mirror.state)
        changes = [
            Change(Op.UPSERT, self._key(number), vector=vector, columns=dict.fromkeys(VALUES))
            for number, vector in rows
        ]
        for change in changes:
            self.table.apply(change)
        self._send(BatchKind.COPY, changes)
        self._send(BatchKind.COPY, changes[:1])
        if changes:
            self.table.apply(changes[0])
        assert contents(self.mirror.state) == before, "the copy shows before its end"
        self._send(BatchKind.COPY_END, watermark=self.lsn)
        self.log = []
        self.answered = self.lsn

    @rule(data=st.data(), sends=st.lists(st.integers(1, 4), max_size=3), sync=st.booleans())
    def transaction(self, data: st.DataObject, sends: list[int], sync: bool) -> None:
        """Commit a transaction and send it in pieces, each perhaps twice and with older ones."""
        self.lsn += 10
        first = len(self.log)
        self._draw_changes(data, self.lsn)
        start = first
        for size in sends:
            self._send(BatchKind.CHANGES, self.log[start : start + size], watermark=self.lsn)
            assert contents(self.mirror.state) == self.before, "half a transaction shows"
            start += size
        again = data.draw(st.integers(max(0, first - 3), max(first, min(start, len(self.log)))))
        ack = self._send(BatchKind.CHANGES, self.log[again:], watermark=self.lsn + 1, sync=sync)
        assert ack.applied_lsn == self.lsn + 1

    @rule(sync=st.booleans())
    def only_the_watermark(self, sync: bool) -> None:
        self.lsn += 10
        ack = self._send(BatchKind.CHANGES, watermark=self.lsn, sync=sync)
        assert ack.applied_lsn == self.lsn
        assert not sync or ack.durable_lsn == self.lsn

    @rule(snapshot=st.booleans())
    def restart(self, snapshot: bool) -> None:
        if snapshot:
            self.mirror.snapshot()
        self.mirror.close()
        self.compaction = None
        self.mirror = Mirror(Path(self.directory.name), self.spec, OPTIONS)
        description = self.mirror.describe()
        assert description["epoch"] == self.epoch
        # A sidecar would go on from the durable LSN; everything after it was only a watermark.
        assert self._durable_lsn() >= self.answered, "an answered durable LSN was forgotten"

    @rule()
    def begin_compaction(self) -> None:
        """Begin to forget dead rows; what goes on meanwhile is drawn like everything else."""
        self.compaction = self.mirror.begin_compaction()
        self.compaction.build()

    @precondition(lambda self: self.compaction is not None)
    @rule()
    def catch_up(self) -> None:
        assert self.compaction is not None
        self.compaction.catch_up()

    @precondition(lambda self: self.compaction is not None)
    @rule()
    def end_compaction(self) -> None:
        assert self.compaction is not None
        before = self.mirror.state
        if self.mirror.end_compaction(self.compaction):
            assert self.mirror.state.n_rows <= before.n_rows
        assert contents(before) == contents(self.mirror.state)
        self.compaction = None

    @rule()
    def compact(self) -> None:
        before = self.mirror.state
        assert self.mirror.compact()
        assert contents(before) == contents(self.mirror.state)
        assert self.mirror.state.n_rows == len(contents(before)), "dead rows are left"
        self.compaction = None

    @precondition(lambda self: self.log)
    @rule(back=st.integers(1, 9))
    def everything_again(self, back: int) -> None:
        """Restart the sidecar, which streams from an older position."""
        self._send(BatchKind.CHANGES, self.log[-back:], watermark=self.log[-1].lsn + 1)

    @invariant()
    def the_index_holds_what_the_table_holds(self) -> None:
        if hasattr(self, "mirror"):
            assert contents(self.mirror.state) == self.table.indexed()
            assert self.mirror.describe()["excluded"] == self.table.excluded()
            self.before = contents(self.mirror.state)

    def teardown(self) -> None:
        if hasattr(self, "mirror"):
            self.mirror.close()
            self.directory.cleanup()

    def _draw_changes(self, data: st.DataObject, lsn: int) -> None:
        for ordinal in range(data.draw(st.integers(1, 6))):
            change = self._draw_change(data, lsn, ordinal)
            self.table.apply(change)
            self.log.append(change)

    def _draw_change(self, data: st.DataObject, lsn: int, ordinal: int) -> Change:
        rows = self.table.rows
        kinds = ["insert"] + ["update", "update", "move", "delete", "truncate"] * bool(rows)
        kind = data.draw(st.sampled_from(kinds))
        if kind == "truncate":
            return Change(Op.TRUNCATE, lsn=lsn, ordinal=ordinal)
        free = [key for key in self.keys if key not in rows]
        if kind in ("insert", "move"):
            assume(free)
            key = data.draw(st.sampled_from(free))
        else:
            key = data.draw(st.sampled_from(sorted(rows, key=str)))
        if kind == "delete":
            return Change(Op.DELETE, key, lsn=lsn, ordinal=ordinal)
        old = data.draw(st.sampled_from(sorted(rows, key=str))) if kind == "move" else None
        states = [VectorState.PRESENT, *EXCLUDED]
        if kind != "insert":
            states += [VectorState.UNCHANGED] * 4
        state = data.draw(st.sampled_from(states))
        vector = data.draw(VECTORS) if state is VectorState.PRESENT else None
        kept = data.draw(st.sets(st.sampled_from(TOASTED))) if kind != "insert" else set()
        columns = {name: data.draw(VALUES[name]) for name in VALUES if name not in kept}
        return Change(Op.UPSERT, key, old, state, vector, columns, lsn, ordinal)

    def _key(self, number: int) -> Any:
        return self.keys[number % len(self.keys)]

    def _send(self, kind: BatchKind, changes: Any = (), watermark: int = 0, **flags: Any) -> Any:
        body = change_batch(self.spec, kind, changes, watermark=watermark, epoch=self.epoch)
        ack = self.mirror.submit(body, **flags)
        self.answered = max(self.answered, ack.durable_lsn)
        assert ack.durable_lsn == self._durable_lsn()
        return ack

    def _durable_lsn(self) -> int:
        text = self.mirror.describe()["durable_lsn"]
        assert isinstance(text, str)
        high, low = text.split("/")
        return int(high, 16) << 32 | int(low, 16)


@pytest.mark.timeout(120)
def test_the_index_holds_what_the_table_holds() -> None:
    run_state_machine_as_test(
        MirrorMachine,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_columns_of_these_tests_are_those_of_the_spec() -> None:
    assert set(VALUES) == {column.name for column in COLUMNS}
