"""ChangeAssembler against a model: random transactions, cut into random blocks and batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pgsync.changes import BatchKind, ChangeBatch
from pgsync.stream import ChangeAssembler
from tests.replication_model import SPEC, Sent, Transaction, Walsender, replications, transactions


@given(replications(), st.data())
@settings(max_examples=120, deadline=None)
def test_any_replication_gives_the_rows_of_its_committed_transactions(
    sent: Sent, data: st.DataObject
) -> None:
    assembler = _assembler(
        batch_rows=data.draw(st.integers(1, 6)),
        batch_bytes=data.draw(st.sampled_from([60, 300, 1 << 20])),
        stream_memory_bytes=data.draw(st.sampled_from([0, 100, 1 << 20])),
    )
    batches: list[ChangeBatch] = []
    for lsn, payload in sent.wire:
        _feed(assembler, lsn, payload)
        if data.draw(st.booleans()):
            # Half way through a transaction a keepalive may name any position: it says nothing.
            assembler.keepalive(lsn + 10**6 * assembler.in_transaction)
        if data.draw(st.booleans()):
            flush, limit = data.draw(st.booleans()), data.draw(st.integers(1, 3))
            batches += assembler.take(flush=flush, max_batches=limit)
    batches += _drain(assembler)
    assert _rows(batches) == sent.expected
    _check_watermarks(batches, sent)


def _check_watermarks(batches: list[ChangeBatch], sent: Sent) -> None:
    """Every change below a batch's watermark is in that batch or an earlier one."""
    seen, last = 0, 0
    for batch in batches:
        seen += batch.rows.num_rows
        below = sum(row["commit_lsn"] < batch.watermark_lsn for row in sent.expected)
        assert below <= seen
        assert last <= batch.watermark_lsn <= batch.source_lsn
        last = batch.watermark_lsn
    assert last >= sent.last_end_lsn


@given(replications(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_restart_sends_exactly_the_transactions_after_the_watermark(
    sent: Sent, data: st.DataObject
) -> None:
    ends = {row["commit_lsn"] + 8 for row in sent.expected}
    start_lsn = data.draw(st.sampled_from(sorted({1000, *ends})))
    assembler = _assembler(start_lsn=start_lsn)
    for lsn, payload in sent.wire:
        _feed(assembler, lsn, payload)
    rows = _rows(_drain(assembler))
    assert rows == [row for row in sent.expected if row["commit_lsn"] >= start_lsn]


@given(transactions, st.integers(1, 5))
@settings(deadline=None)
def test_rows_and_ordinals_are_the_same_whether_a_transaction_was_streamed_or_not(
    transaction: Transaction, block: int
) -> None:
    transaction.body.aborted = False
    whole, streamed = Walsender(), Walsender()
    whole.send_whole(transaction)
    stream = streamed.open_stream(transaction)
    while not stream.done:
        streamed.send_block(stream, block)
    streamed.finish_stream(stream)
    rows = [_rows(_everything(sent)) for sent in (whole.sent, streamed.sent)]
    assert _without_lsn(rows[0]) == _without_lsn(rows[1])


def _without_lsn(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "commit_lsn"} for row in rows]


def _assembler(*, start_lsn: int = 1, **limits: Any) -> ChangeAssembler:
    # Batches may be smaller than one vector: a batch always has room for one row.
    return ChangeAssembler(SPEC, epoch=1, system_id="7", start_lsn=start_lsn, **limits)


def _feed(assembler: ChangeAssembler, lsn: int, payload: bytes | None) -> None:
    if payload is None:
        assembler.keepalive(lsn)
    else:
        assembler.feed(lsn, payload)


def _drain(assembler: ChangeAssembler) -> list[ChangeBatch]:
    batches: list[ChangeBatch] = []
    while taken := assembler.take():
        batches += taken
    assert assembler.pending_rows == assembler.pending_bytes == 0
    return batches


def _everything(sent: Sent) -> list[ChangeBatch]:
    assembler = _assembler()
    for lsn, payload in sent.wire:
        _feed(assembler, lsn, payload)
    return _drain(assembler)


def _rows(batches: Sequence[ChangeBatch]) -> list[dict[str, Any]]:
    assert all(batch.kind is BatchKind.CHANGES for batch in batches)
    return [row for batch in batches for row in batch.rows.to_pylist()]
