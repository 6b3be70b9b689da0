"""Snapshots: whole or not there; a damaged one is found, and what came before it is used."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from pgsync.changes import BatchKind, VectorState
from pgsync.table import ColumnSpec
from server import snapshot
from server.errors import JournalCorrupt, SnapshotCorrupt, StorageError
from server.snapshot import listed, read_snapshot
from tests.change_batches import COLUMNS, contents, make_spec
from tests.fix_mirrors import Feeder

A, B, C = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def snapshots(feeder: Feeder) -> list[Path]:
    return listed(feeder.path / "snapshots")


def test_a_snapshot_holds_keys_columns_vectors_and_excluded_rows(tmp_path: Path) -> None:
    key = (ColumnSpec("id", "uuid"), ColumnSpec("part", "text"))
    feeder = Feeder(tmp_path, make_spec(key=key))
    none: dict[str, Any] = dict.fromkeys(column.name for column in COLUMNS)
    full = {**none, "name": "ü", "tags": ["a", None], "price": 2.5, "owner": b"\7" * 16}
    feeder.copy({})
    feeder.change(
        200,
        feeder.upsert((uuid.UUID(int=1), "p"), A, columns=full),
        feeder.upsert((uuid.UUID(int=2), ""), state=VectorState.NULL, columns=full),
        feeder.upsert((uuid.UUID(int=3), "q"), B, columns=none),
    )
    before, excluded = contents(feeder.mirror.state), feeder.mirror.describe()["excluded"]
    assert feeder.mirror.snapshot() == 201
    shutil.rmtree(tmp_path / "journal")
    feeder.mirror.close()
    loaded, position = read_snapshot(snapshots(feeder)[-1], feeder.spec)
    assert (position.applied_lsn, position.epoch) == (201, 1)
    assert loaded.attic.excluded() == excluded
    keys = loaded.key_rows.view().public(loaded.index.state.alive().nonzero()[0])
    assert set(keys) == set(before)


def test_staged_changes_are_not_in_a_snapshot_but_survive_it(feeder: Feeder) -> None:
    feeder.copy({1: A})
    feeder.send(BatchKind.CHANGES, [feeder.upsert(2, B, lsn=200)], watermark=200)
    for _ in range(3):
        feeder.mirror.snapshot()
    feeder.reopen()
    assert feeder.vectors() == {1: A}
    feeder.send(BatchKind.CHANGES, watermark=201)
    assert feeder.vectors() == {1: A, 2: B}


def test_a_snapshot_during_a_copy_loses_nothing_of_it(feeder: Feeder) -> None:
    feeder.copy({1: A})
    feeder.send(BatchKind.COPY_BEGIN, epoch=2)
    feeder.send(BatchKind.COPY, [feeder.upsert(2, B)], epoch=2)
    for _ in range(3):
        feeder.mirror.snapshot()
    feeder.reopen()
    assert (feeder.mirror.state.phase, feeder.vectors()) == ("resync", {1: A})
    feeder.send(BatchKind.COPY_END, watermark=300, epoch=2)
    assert feeder.vectors() == {2: B}


def test_two_snapshots_and_the_journal_after_the_older_are_kept(tmp_path: Path) -> None:
    feeder = Feeder(tmp_path, segment_bytes=2000)
    feeder.copy({1: A})
    for n in range(12):
        feeder.change(200 + n, feeder.upsert(n, B))
        feeder.mirror.snapshot()
    assert len(snapshots(feeder)) == 2
    assert feeder.mirror._journal.first_seq > 4
    feeder.reopen()
    assert feeder.vectors() == dict.fromkeys(range(12), B)
    feeder.mirror.close()


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    feeder = Feeder(tmp_path, make_spec(columns=(ColumnSpec("name", "text"),)))
    feeder.copy({})
    feeder.change(200, feeder.upsert(1, A, columns={"name": "x"}))
    feeder.mirror.snapshot()
    feeder.mirror.close()
    (path,) = snapshots(feeder)
    for file in sorted(path.iterdir()):
        data = file.read_bytes()
        step = max(1, len(data) // 150)
        for offset in [*range(0, len(data), step), len(data) - 1]:
            damaged = bytearray(data)
            damaged[offset] ^= 1
            file.write_bytes(damaged)
            with pytest.raises(SnapshotCorrupt):
                read_snapshot(path, feeder.spec)
        file.write_bytes(data[:-1])
        with pytest.raises(SnapshotCorrupt):
            read_snapshot(path, feeder.spec)
        file.unlink()
        with pytest.raises(StorageError):
            read_snapshot(path, feeder.spec)
        file.write_bytes(data)
    read_snapshot(path, feeder.spec)


@pytest.mark.parametrize("name", ["manifest.json", "index.vm", "rows.arrow", "attic.arrow"])
def test_the_older_snapshot_and_the_journal_replace_a_damaged_one(
    tmp_path: Path, name: str
) -> None:
    feeder = Feeder(tmp_path, segment_bytes=2000)
    feeder.copy({1: A})
    for n in range(6):
        feeder.change(200 + n, feeder.upsert(n, B))
        feeder.mirror.snapshot()
    expected, durable = feeder.vectors(), feeder.mirror.describe()["durable_lsn"]
    _damage(snapshots(feeder)[-1] / name)
    feeder.reopen()
    assert (feeder.vectors(), feeder.mirror.describe()["durable_lsn"]) == (expected, durable)
    feeder.mirror.close()


def test_with_no_snapshot_left_the_index_does_not_pretend(tmp_path: Path) -> None:
    feeder = Feeder(tmp_path, segment_bytes=1000)
    feeder.copy({1: A})
    for n in range(6):
        feeder.change(200 + n, feeder.upsert(n, B))
        feeder.mirror.snapshot()
    for path in snapshots(feeder):
        _damage(path / "rows.arrow")
    with pytest.raises(JournalCorrupt, match="does not reach back"):
        feeder.reopen()


def test_a_half_written_snapshot_is_swept(feeder: Feeder) -> None:
    feeder.copy({1: A})
    feeder.mirror.snapshot()
    (path,) = snapshots(feeder)
    shutil.copytree(path, path.with_name(f".{int(path.name) + 1:020d}"))
    feeder.reopen()
    assert [entry.name for entry in (feeder.path / "snapshots").iterdir()] == [path.name]
    assert feeder.vectors() == {1: A}


def test_a_snapshot_that_fails_changes_nothing(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeder.copy({1: A})
    feeder.mirror.snapshot()

    def fail(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "sync_tree", fail)
        with pytest.raises(StorageError, match="no space left"):
            feeder.mirror.snapshot()
    assert len(list((feeder.path / "snapshots").iterdir())) == 1
    feeder.change(200, feeder.upsert(2, B))
    feeder.mirror.snapshot()
    feeder.reopen()
    assert feeder.vectors() == {1: A, 2: B}


def _damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
