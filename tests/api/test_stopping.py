"""What is saved at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from server import stopping
from server.catalog import Catalog
from server.failed import FailedMirror
from server.mirror import MirrorLike
from server.spec import IndexSpec
from server.stopping import save_grown
from tests.fix_feed import ITEMS, ItemFeed

NOW_S = 1000.0
LATER_S = NOW_S + 10


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[MirrorLike]:
    """Return an index of some rows, all of them in the journal only."""
    with closing(Catalog(tmp_path)) as catalog:
        catalog.load()
        mirror = catalog.create(IndexSpec(name="items", table=ITEMS, metric="l2"))
        for body in ItemFeed(50).copy():
            mirror.submit(body)
        yield mirror


def _saved(mirror: MirrorLike) -> bool:
    return mirror.describe()["snapshot"] is not None


def _clock() -> float:
    return NOW_S


def test_a_small_journal_is_left_to_the_next_start(mirror: MirrorLike) -> None:
    save_grown([mirror], LATER_S, _clock)
    assert not _saved(mirror)


def test_a_grown_journal_becomes_a_snapshot(
    mirror: MirrorLike, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "SAVE_FROM_BYTES", 1000)
    save_grown([mirror], LATER_S, _clock)
    assert _saved(mirror)


def test_nothing_is_begun_that_cannot_end_in_time(
    mirror: MirrorLike, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "SAVE_FROM_BYTES", 1000)
    save_grown([mirror], NOW_S, _clock)
    assert not _saved(mirror)


def test_a_failed_index_keeps_nobody(mirror: MirrorLike, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "SAVE_FROM_BYTES", 1000)
    save_grown([FailedMirror(mirror.spec, "it is damaged"), mirror], LATER_S, _clock)
    assert _saved(mirror)
