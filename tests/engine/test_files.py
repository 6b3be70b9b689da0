"""The index file: everything comes back, and not one changed byte goes unnoticed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpu import Backend, FileCorrupt, Index, IndexParams, IndexState, train
from gpu.files import opened

DIM = 6


def sample_state(backend: Backend, *, trained: bool, metric: str = "l2") -> IndexState:
    rng = np.random.default_rng(0)
    params = IndexParams(dim=DIM, metric=metric, nlist=4, m=3)  # type: ignore[arg-type]
    index = Index(params, backend)
    index.add(rng.normal(size=(200, DIM)).astype(np.float32))
    index.kill(np.arange(0, 200, 9))
    index.publish()
    if trained:
        index.adopt(train(index.state))
        index.add(np.full((1, DIM), 1e7, np.float32))
        index.add(rng.normal(size=(30, DIM)).astype(np.float32))
        index.publish()
        index.encode_pending(15)
    return index.state


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("trained", [False, True])
def test_a_saved_state_comes_back_whole(
    trained: bool, metric: str, backend: Backend, tmp_path: Path
) -> None:
    state = sample_state(backend, trained=trained, metric=metric)
    state.save(tmp_path / "index.vmx")
    loaded = Index.load(tmp_path / "index.vmx", backend).state
    assert loaded.stats() == state.stats()
    assert loaded.params == state.params
    np.testing.assert_array_equal(loaded.alive(), state.alive())
    everything = np.arange(state.n_rows)
    np.testing.assert_array_equal(loaded.vectors(everything), state.vectors(everything))
    queries = state.vectors(everything[:9])
    for options in ({}, {"nprobe": 2, "rerank": 12}, {"exact": True}):
        before = state.search(queries, 7, **options)
        after = loaded.search(queries, 7, **options)
        np.testing.assert_array_equal(before.ids, after.ids)
        np.testing.assert_array_equal(before.distances, after.distances)


def test_a_loaded_index_can_be_written_on(backend: Backend, tmp_path: Path) -> None:
    state = sample_state(backend, trained=True)
    state.save(tmp_path / "index.vmx")
    index = Index.load(tmp_path / "index.vmx", backend)
    new = index.add(np.ones((2, DIM), np.float32))
    np.testing.assert_array_equal(new, [state.n_rows, state.n_rows + 1])
    index.kill(new[:1])
    index.publish()
    while index.encode_pending(8):
        pass
    hits = index.state.search(np.ones((1, DIM), np.float32), 1, nprobe=4, rerank=300)
    assert hits.ids[0, 0] == new[1]


def test_an_empty_index_comes_back(backend: Backend, tmp_path: Path) -> None:
    Index(IndexParams(dim=DIM, metric="ip"), backend).state.save(tmp_path / "index.vmx")
    assert Index.load(tmp_path / "index.vmx", backend).state.n_rows == 0


def test_saving_over_an_old_file_replaces_it_and_leaves_nothing_beside(
    backend: Backend, tmp_path: Path
) -> None:
    path = tmp_path / "index.vmx"
    sample_state(backend, trained=False).save(path)
    state = sample_state(backend, trained=True)
    state.save(path)
    assert Index.load(path, backend).state.stats() == state.stats()
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.vmx"]


def test_a_failed_save_keeps_the_old_file(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index.vmx"
    state = sample_state(backend, trained=False)
    state.save(path)
    before = path.read_bytes()

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        sample_state(backend, trained=True).save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture(scope="module")
def saved(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "index.vmx"
    sample_state(backend, trained=True).save(path)
    return path


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject, saved: Path, tmp_path: Path) -> None:
    content = bytearray(saved.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    damaged = tmp_path / "damaged.vmx"
    damaged.write_bytes(content)
    with pytest.raises(FileCorrupt):
        Index.load(damaged)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_missing_or_added_byte_is_noticed(
    data: st.DataObject, saved: Path, tmp_path: Path
) -> None:
    content = saved.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    damaged = tmp_path / "damaged.vmx"
    kind = data.draw(st.sampled_from(["cut", "drop", "add"]))
    if kind == "cut":
        damaged.write_bytes(content[:place])
    elif kind == "drop":
        damaged.write_bytes(content[:place] + content[place + 1 :])
    else:
        damaged.write_bytes(content[:place] + b"\0" + content[place:])
    with pytest.raises(FileCorrupt):
        Index.load(damaged)


def test_every_byte_of_the_borders_is_guarded(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    damaged = tmp_path / "damaged.vmx"
    for place in [*range(64), *range(len(content) - 300, len(content))]:
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(FileCorrupt):
            Index.load(damaged)


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 500, b"VECMIRIX" * 40])
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(FileCorrupt, match="other"):
        Index.load(path)


def test_a_missing_file_is_not_called_corrupt(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Index.load(tmp_path / "nowhere")


def test_the_header_tells_what_is_inside(saved: Path) -> None:
    with opened(saved) as reader:
        assert reader.header["params"]["metric"] == "l2"
        assert reader.header["trained"]["encoded_rows"] == 215
        assert reader.array("aside").tolist() == [200]
