"""Snapshot: the contents of an index on disk, with the LSN they are complete to.

    snapshots/00000000000000000007/   a number that rises
        manifest.json                 first line: xxh64 of the rest; position, and each file's xxh64
        index.vm                      the engine's file
        rows.arrow                    keys and filter columns, row r is row id r
        attic.arrow                   the same and the reason, of the rows that are not in the index

Invariants:

- A snapshot appears whole: written aside, fsynced, renamed, its directory fsynced.
- Any changed byte is found when it is read: SnapshotCorrupt.
- Staged changes are not in it; the journal from ``journal_seq`` on has them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import structlog
import xxhash
from numpy.typing import NDArray

from gpu import Backend, Index, IndexFull, open_backend
from gpu.errors import FileCorrupt

from .columns import ColumnCodec, ColumnView
from .contents import Contents
from .disk import size_of, storage_errors, sync_directory, sync_tree, write_durably
from .errors import SnapshotCorrupt
from .frozen import Frozen, freeze
from .keys import KeyView, raw_keys
from .spec import IndexSpec

log = structlog.get_logger("vecmirror.snapshot")

_VERSION = 1
_MANIFEST, _INDEX, _ROWS, _ATTIC = "manifest.json", "index.vm", "rows.arrow", "attic.arrow"
#: Rows in one Arrow batch: far below the 2 GiB of text that one batch can hold.
_BATCH_ROWS = 65_536
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where in the feed a snapshot was taken, and the journal record to go on from."""

    epoch: int
    applied_lsn: int
    source_lsn: int
    journal_seq: int
    system_id: str | None
    lost: str | None
    taken_at_s: float


@dataclass(frozen=True, slots=True)
class Capture:
    """Everything a snapshot needs: taken under the writer lock, written without it."""

    position: Position
    frozen: Frozen


def capture(contents: Contents, position: Position) -> Capture:
    """Pin the published contents; the caller holds the writer lock."""
    return Capture(position, freeze(contents))


def write_snapshot(directory: Path, pinned: Capture) -> Path:
    """Write a snapshot and return where it is; raise StorageFull or StorageError."""
    with storage_errors("writing a snapshot"):
        directory.mkdir(exist_ok=True)
        number = max((int(path.name) for path in listed(directory)), default=0) + 1
        target = directory / f"{number:020d}"
        aside = directory / f".{target.name}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        try:
            _write_files(aside, pinned)
            sync_tree(aside)
            aside.rename(target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync_directory(directory)
    return target


def listed(directory: Path) -> list[Path]:
    """Return the finished snapshots in a directory, oldest first."""
    found = [path for path in directory.glob("[0-9]*") if path.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name))


def read_position(path: Path) -> Position:
    """Return where a snapshot was taken; raise SnapshotCorrupt."""
    return Position(**_read_manifest(path)["position"])


def read_snapshot(
    path: Path, spec: IndexSpec, backend: Backend | None = None
) -> tuple[Contents, Position]:
    """Read a snapshot, every byte checked; raise SnapshotCorrupt or StorageError.

    An index that does not fit on the card of ``backend`` is searched on the CPU.
    """
    manifest = _read_manifest(path)
    with storage_errors("reading a snapshot"):
        for name, checksum in manifest["files"].items():
            if _checksum(path / name) != checksum:
                raise SnapshotCorrupt(f"snapshot {path.name}: {name} is not what was written")
        try:
            contents = _read_contents(path, spec, backend)
        except (FileCorrupt, pa.ArrowException, KeyError, ValueError) as error:
            raise SnapshotCorrupt(f"snapshot {path.name} does not fit the index") from error
    return contents, Position(**manifest["position"])


def remove(path: Path) -> None:
    """Delete a snapshot so that a half-deleted one is never taken for a whole one."""
    with storage_errors("removing a snapshot"):
        aside = path.with_name(f".{path.name}")
        path.rename(aside)
        shutil.rmtree(aside)


def clear_unfinished(directory: Path) -> None:
    """Delete what a crash left of snapshots being written or removed."""
    for path in directory.glob(".[0-9]*"):
        shutil.rmtree(path, ignore_errors=True)


def size_bytes(directory: Path) -> int:
    """Return the bytes that finished snapshots take."""
    return size_of(directory.glob("[0-9]*/*"))


def _write_files(path: Path, pinned: Capture) -> None:
    frozen = pinned.frozen
    frozen.index.save(path / _INDEX)
    rows = np.arange(frozen.index.n_rows)
    _write_rows(path / _ROWS, _batches(frozen.keys, frozen.columns, rows))
    reasons = pa.array(frozen.attic_reasons)
    attic = _batches(frozen.attic_keys, frozen.attic_columns, frozen.attic)
    _write_rows(path / _ATTIC, _with_reasons(attic, reasons))
    files = {name: _checksum(path / name) for name in (_INDEX, _ROWS, _ATTIC)}
    manifest = {"version": _VERSION, "position": asdict(pinned.position), "files": files}
    body = json.dumps(manifest, indent=1).encode()
    write_durably(path / _MANIFEST, xxhash.xxh64_hexdigest(body).encode() + b"\n" + body)


def _batches(
    keys: KeyView, columns: Mapping[str, ColumnView], rows: NDArray[np.int64]
) -> Iterator[pa.RecordBatch]:
    """Yield the keys and columns of ``rows``, at least one batch so that the schema is kept."""
    names = [f"key:{spec.name}" for spec in keys.specs] + [f"col:{name}" for name in columns]
    for start in range(0, max(1, len(rows)), _BATCH_ROWS):
        part = rows[start : start + _BATCH_ROWS]
        arrays = keys.to_arrow(part) + [view.take(part).to_arrow() for view in columns.values()]
        yield pa.RecordBatch.from_arrays(arrays, names=names)


def _with_reasons(batches: Iterable[pa.RecordBatch], reasons: Any) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in batches:
        yield batch.append_column("reason", reasons.slice(start, batch.num_rows))
        start += batch.num_rows


def _write_rows(path: Path, batches: Iterator[pa.RecordBatch]) -> None:
    first = next(batches)
    with path.open("xb") as file, pa.ipc.new_stream(file, first.schema) as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)


def _read_contents(path: Path, spec: IndexSpec, backend: Backend | None) -> Contents:
    contents = Contents(spec, read_index(path / _INDEX, spec, backend))
    if contents.index.params != spec.index_params():
        raise ValueError("the engine's parameters are not the index's")
    for batch in _read_rows(path / _ROWS):
        contents.key_rows.extend(_keys(batch, spec))
        contents.columns.extend(_columns(batch, contents.codecs))
    for batch in _read_rows(path / _ATTIC):
        reasons = batch.column("reason").to_numpy()
        contents.attic.extend(_keys(batch, spec), _columns(batch, contents.codecs), reasons)
    if len(contents.key_rows) != contents.index.state.n_rows:
        raise ValueError("keys and vectors do not go together")
    contents.restore()
    return contents


def read_index(path: Path, spec: IndexSpec, backend: Backend | None) -> Index:
    """Read an index file for ``backend``; for the CPU where the card has no room for it."""
    try:
        return Index.load(path, backend)
    except IndexFull as error:
        if backend is None or backend.name != "cuda":
            raise
        log.warning("no room on the card; searched on the CPU", index=spec.name, reason=str(error))
        return Index.load(path, open_backend("cpu"))


def _keys(batch: pa.RecordBatch, spec: IndexSpec) -> list[Any]:
    return list(raw_keys(batch, "key:", spec.table.key))


def _columns(batch: pa.RecordBatch, codecs: Sequence[ColumnCodec]) -> list[ColumnView]:
    return [codec.decode(batch.column(f"col:{codec.name}")) for codec in codecs]


def _read_rows(path: Path) -> Iterator[pa.RecordBatch]:
    with path.open("rb") as file, pa.ipc.open_stream(file) as reader:
        yield from reader


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        checksum, _, body = (path / _MANIFEST).read_bytes().partition(b"\n")
        if checksum.decode() != xxhash.xxh64_hexdigest(body):
            raise SnapshotCorrupt(f"snapshot {path.name}: the manifest is not what was written")
        manifest: dict[str, Any] = json.loads(body)
    except (OSError, ValueError) as error:
        raise SnapshotCorrupt(f"snapshot {path.name} has no readable manifest") from error
    if manifest["version"] != _VERSION:
        raise SnapshotCorrupt(f"snapshot {path.name} has another format version")
    return manifest


def _checksum(path: Path) -> str:
    digest = xxhash.xxh64()
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()
