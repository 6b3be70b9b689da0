"""The catalog's indexes appear and disappear whole, and one that is damaged harms no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgsync.changes import BatchKind
from server.catalog import Catalog
from server.errors import (
    BadName,
    DataDirLocked,
    IndexExists,
    IndexLoading,
    MirrorFailed,
    UnknownIndex,
)
from server.mirror import MirrorOptions
from server.spec import IndexSpec
from tests.change_batches import change_batch, make_spec

OPTIONS = MirrorOptions(background=False)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog(tmp_path, OPTIONS)
    catalog.load()
    yield catalog
    catalog.close()


def names(catalog: Catalog) -> list[str]:
    return [mirror.spec.name for mirror in catalog.mirrors()]


def test_indexes_are_found_again(tmp_path: Path, catalog: Catalog) -> None:
    for name in ("b", "a.1", "_"):
        catalog.create(make_spec(name))
    body = change_batch(make_spec("b"), BatchKind.COPY_BEGIN)
    catalog.get("b").submit(body)
    catalog.close()
    again = Catalog(tmp_path, OPTIONS)
    with pytest.raises(IndexLoading):
        again.get("b")
    with pytest.raises(IndexLoading):
        again.create(make_spec("c"))
    again.load()
    assert names(again) == ["_", "a.1", "b"]
    assert again.get("b").spec == make_spec("b")
    assert again.get("b").describe()["phase"] == "copying"
    again.close()


def test_a_dropped_index_is_gone(tmp_path: Path, catalog: Catalog) -> None:
    catalog.create(make_spec("a"))
    with pytest.raises(IndexExists):
        catalog.create(make_spec("a"))
    catalog.drop("a")
    assert list((tmp_path / "indexes").iterdir()) == []
    for call in (catalog.get, catalog.drop):
        with pytest.raises(UnknownIndex):
            call("a")
    assert catalog.create(make_spec("a")).describe()["phase"] == "new"


def test_two_servers_never_share_a_data_directory(tmp_path: Path, catalog: Catalog) -> None:
    with pytest.raises(DataDirLocked):
        Catalog(tmp_path)
    catalog.close()
    Catalog(tmp_path).close()


def test_what_a_crash_left_of_an_index_is_swept(tmp_path: Path, catalog: Catalog) -> None:
    catalog.create(make_spec("a"))
    catalog.close()
    (tmp_path / "indexes" / ".b" / "journal").mkdir(parents=True)
    again = Catalog(tmp_path, OPTIONS)
    again.load()
    assert names(again) == ["a"]
    assert not (tmp_path / "indexes" / ".b").exists()
    again.close()


def test_a_damaged_index_is_listed_with_its_reason_and_the_others_serve(
    tmp_path: Path, catalog: Catalog
) -> None:
    for name in ("bad", "good", "unreadable"):
        catalog.create(make_spec(name))
    catalog.get("bad").submit(change_batch(make_spec("bad"), BatchKind.COPY_BEGIN))
    catalog.get("bad").submit(change_batch(make_spec("bad"), BatchKind.COPY_END, watermark=9))
    catalog.close()
    _damage_first_record(tmp_path / "indexes" / "bad")
    (tmp_path / "indexes" / "unreadable" / "spec.json").write_text("{")
    again = Catalog(tmp_path, OPTIONS)
    again.load()
    assert names(again) == ["bad", "good"]
    bad = again.get("bad")
    assert bad.describe()["phase"] == "failed"
    assert bad.failed == "journal record 1 is damaged"
    with pytest.raises(MirrorFailed, match="journal record 1 is damaged"):
        _ = bad.state
    with pytest.raises(MirrorFailed):
        bad.submit(b"")
    with pytest.raises(MirrorFailed, match=r"spec\.json"):
        again.get("unreadable")
    assert again.get("good").describe()["failed"] is None
    for name in ("bad", "unreadable"):
        again.drop(name)
        again.create(make_spec(name))
    again.close()


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "-a", "A", "a/b", "a\n", "ä", "a" * 64])
def test_a_name_is_safe_as_a_directory(name: str, catalog: Catalog) -> None:
    with pytest.raises(BadName):
        make_spec(name)
    with pytest.raises(UnknownIndex):
        catalog.get(name)


def test_a_spec_comes_back_from_its_json() -> None:
    spec = make_spec("a", code_bits=8, nlist=10)
    assert IndexSpec.from_json(spec.to_json()) == spec


def _damage_first_record(path: Path) -> None:
    (segment,) = (path / "journal").iterdir()
    data = bytearray(segment.read_bytes())
    data[100] ^= 1
    segment.write_bytes(data)
