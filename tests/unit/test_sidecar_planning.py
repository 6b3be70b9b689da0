"""The decisions of the sidecar: how to start, when to send, what a new relfilenode means."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgsync.errors import (
    ResyncNeeded,
    SinkError,
    SinkUnavailable,
    SourceError,
    SourceUnavailable,
)
from pgsync.planning import (
    BATCH_BYTES,
    DURABLE_INTERVAL_S,
    HEARTBEAT_S,
    WATERMARK_INTERVAL_S,
    FeedState,
    ShapeWatch,
    Standing,
    TableShape,
    next_post,
    plan_start,
    retry_delay_s,
)
from pgsync.slots import SlotState

SLOT = SlotState(
    name="s",
    plugin="pgoutput",
    database="d",
    active_pid=None,
    wal_status="reserved",
    invalidation_reason=None,
    confirmed_flush_lsn=100,
    lag_bytes=0,
    safe_wal_size=None,
    failover=False,
)
LIVE = Standing(
    phase="live", epoch=3, durable_lsn=100, known_system_id="7", system_id="7", slot=SLOT
)


def test_a_complete_index_streams_from_its_durable_lsn_in_its_epoch() -> None:
    plan = plan_start(replace(LIVE, durable_lsn=140))
    assert (plan.copy, plan.epoch, plan.start_lsn) == (False, 3, 140)


@pytest.mark.parametrize(
    "standing",
    [
        replace(LIVE, phase="new"),
        replace(LIVE, phase="copying"),
        replace(LIVE, phase="resync"),
        replace(LIVE, known_system_id="8"),
        replace(LIVE, slot=None),
        replace(LIVE, slot=replace(SLOT, wal_status="lost")),
        replace(LIVE, slot=replace(SLOT, invalidation_reason="idle_timeout")),
        replace(LIVE, slot=replace(SLOT, confirmed_flush_lsn=None)),
        replace(LIVE, durable_lsn=99),
        replace(LIVE, altered=True),
    ],
)
def test_any_doubt_leads_to_a_new_copy_in_the_next_epoch(standing: Standing) -> None:
    plan = plan_start(standing)
    assert (plan.copy, plan.epoch) == (True, 4)
    assert plan.reason


QUIET = FeedState(
    pending_rows=0,
    pending_bytes=0,
    in_transaction=False,
    watermark_lsn=50,
    sent_watermark_lsn=50,
    durable_lsn=50,
    since_post_s=0.5,
    since_sync_s=0.5,
)


def test_rows_of_complete_transactions_leave_at_once() -> None:
    plan = next_post(replace(QUIET, pending_rows=1, since_post_s=0.0))
    assert plan.send
    assert plan.flush
    assert not plan.sync


def test_a_small_part_of_a_transaction_waits_for_its_commit() -> None:
    assert not next_post(replace(QUIET, pending_rows=1, in_transaction=True)).send


def test_complete_transactions_do_not_wait_for_the_one_behind_them() -> None:
    begun = replace(QUIET, pending_rows=5, in_transaction=True, watermark_lsn=60)
    plan = next_post(begun)
    assert plan.send
    assert plan.flush


def test_a_large_part_of_a_transaction_leaves_ahead_of_its_commit() -> None:
    begun = replace(QUIET, pending_rows=9, pending_bytes=BATCH_BYTES, in_transaction=True)
    plan = next_post(begun)
    assert plan.send
    assert not plan.flush


def test_a_moved_watermark_leaves_at_most_every_hundredth_of_a_second() -> None:
    moved = replace(QUIET, watermark_lsn=60)
    assert next_post(replace(moved, since_post_s=WATERMARK_INTERVAL_S)).send
    early = next_post(replace(moved, since_post_s=0.004))
    assert not early.send
    assert early.wait_s == pytest.approx(WATERMARK_INTERVAL_S - 0.004)


def test_the_server_hears_a_heartbeat_every_second() -> None:
    plan = next_post(QUIET)
    assert not plan.send
    assert plan.wait_s == pytest.approx(HEARTBEAT_S - 0.5)
    assert next_post(replace(QUIET, since_post_s=HEARTBEAT_S)).send


def test_a_quiet_stream_asks_for_a_durable_watermark_now_and_then() -> None:
    behind = replace(QUIET, durable_lsn=40, since_sync_s=DURABLE_INTERVAL_S)
    assert next_post(behind).sync
    assert not next_post(replace(behind, since_sync_s=1.0)).sync
    assert not next_post(replace(behind, durable_lsn=50, since_post_s=HEARTBEAT_S)).sync


@given(
    st.builds(
        FeedState,
        pending_rows=st.integers(0, 10),
        pending_bytes=st.integers(0, 2 * BATCH_BYTES),
        in_transaction=st.booleans(),
        watermark_lsn=st.integers(0, 9),
        sent_watermark_lsn=st.integers(0, 9),
        durable_lsn=st.integers(0, 9),
        since_post_s=st.floats(0, 100),
        since_sync_s=st.floats(0, 100),
    )
)
def test_a_wait_is_bounded_by_the_heartbeat_and_never_a_busy_loop(state: FeedState) -> None:
    plan = next_post(state)
    assert plan.send or 0 < plan.wait_s <= HEARTBEAT_S


SHAPE = TableShape(storage=((10, 10),), vector=(2, 500, 3))
REWRITTEN = replace(SHAPE, storage=((10, 77),))


def test_a_table_rewritten_without_row_changes_is_noticed() -> None:
    watch = ShapeWatch(SHAPE)
    watch.observe(REWRITTEN, flushed_lsn=100)
    watch.advance(99)
    assert watch.suspicious
    with pytest.raises(ResyncNeeded):
        watch.advance(100)


def test_new_storage_after_a_truncate_in_the_stream_is_no_rewrite() -> None:
    watch = ShapeWatch(SHAPE)
    watch.observe(REWRITTEN, flushed_lsn=100)
    watch.truncated()
    watch.advance(100)
    assert not watch.suspicious
    watch.observe(REWRITTEN, flushed_lsn=120)
    assert not watch.suspicious


def test_a_truncate_explains_new_storage_once() -> None:
    watch = ShapeWatch(SHAPE)
    watch.observe(REWRITTEN, flushed_lsn=100)
    watch.truncated()
    watch.advance(100)
    watch.observe(replace(SHAPE, storage=((10, 88),)), flushed_lsn=200)
    with pytest.raises(ResyncNeeded):
        watch.advance(200)


@pytest.mark.parametrize(
    "shape",
    [
        replace(SHAPE, vector=(2, 500, 4)),
        replace(SHAPE, vector=(5, 500, 3)),
        replace(SHAPE, vector=None),
        replace(SHAPE, storage=((10, 10), (11, 11))),
    ],
)
def test_another_column_or_partition_needs_a_new_copy_at_once(shape: TableShape) -> None:
    with pytest.raises(ResyncNeeded):
        ShapeWatch(SHAPE).observe(shape, flushed_lsn=1)


@pytest.mark.parametrize(
    ("error", "longest_s"),
    [
        (SourceUnavailable("x"), 10.0),
        (SinkUnavailable("x"), 10.0),
        (ResyncNeeded("x"), 60.0),
        (SourceError("x"), 60.0),
        (SinkError("x"), 60.0),
        (ValueError("x"), 60.0),
    ],
)
def test_delays_grow_to_a_bound(error: Exception, longest_s: float) -> None:
    delays = [retry_delay_s(error, attempt) for attempt in range(1, 40)]
    assert delays == sorted(delays)
    assert delays[0] <= 2.0
    assert delays[-1] == longest_s
