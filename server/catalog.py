"""Catalog: the indexes of one data directory, by name.

    data_dir/lock                      held by the one server that uses the directory
    data_dir/indexes/<name>/spec.json  what the index is; beside it journal/ and snapshots/

Invariants:

- An index directory appears and disappears whole, by a rename; what a crash left is swept at start.
- Two servers never share a data directory.
- An index that cannot be read is listed as failed, with the reason; the others serve.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from threading import Lock

import structlog

from gpu.backend import Backend
from gpu.errors import EngineError

from .disk import storage_errors, sync_directory, sync_tree, write_durably
from .errors import (
    BadName,
    DataDirLocked,
    IndexExists,
    IndexLoading,
    MirrorFailed,
    ServerError,
    UnknownIndex,
)
from .failed import FailedMirror
from .mirror import Mirror, MirrorLike, MirrorOptions
from .spec import IndexSpec, check_name

log = structlog.get_logger("vecmirror.catalog")

#: Index names never begin with a dot, so these are never taken for one.
_ASIDE = "."
_SPEC = "spec.json"


class Catalog:
    """All indexes of a data directory. Every method may be called from any thread."""

    def __init__(self, data_dir: Path, options: MirrorOptions | None = None) -> None:
        """Take the directory for this process; raise DataDirLocked or StorageError."""
        self._options = options or MirrorOptions()
        self._indexes = data_dir / "indexes"
        self._lock = Lock()
        self._mirrors: dict[str, MirrorLike] = {}
        #: Indexes of which not even the spec can be read: name -> reason.
        self._unreadable: dict[str, str] = {}
        self.loading = True
        with storage_errors("opening the data directory"):
            self._indexes.mkdir(parents=True, exist_ok=True)
            self._lock_descriptor = _lock_directory(data_dir)

    @property
    def backend(self) -> Backend | None:
        """What indexes are searched with; None: the best one here."""
        return self._options.backend

    def load(self) -> None:
        """Open every index on disk; one that cannot be read is there but failed."""
        with storage_errors("reading the data directory"):
            for path in sorted(self._indexes.iterdir()):
                if path.name.startswith(_ASIDE):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    self._load(path)
        self.loading = False

    def create(self, spec: IndexSpec) -> MirrorLike:
        """Make an empty index; raise IndexExists, IndexLoading or StorageError."""
        path, aside = self._indexes / spec.name, self._indexes / f"{_ASIDE}{spec.name}"
        with self._lock, storage_errors("making an index"):
            if self.loading:
                raise IndexLoading(spec.name)
            if path.exists():
                raise IndexExists(spec.name)
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            write_durably(aside / _SPEC, json.dumps(spec.to_json(), indent=1).encode())
            sync_tree(aside)
            aside.rename(path)
            sync_directory(self._indexes)
            mirror = Mirror(path, spec, self._options)
            self._mirrors[spec.name] = mirror
        return mirror

    def get(self, name: str) -> MirrorLike:
        """Return an index; raise UnknownIndex, MirrorFailed, or IndexLoading until it is read."""
        mirror = self._mirrors.get(name)
        if mirror is not None:
            return mirror
        if name in self._unreadable:
            raise MirrorFailed(name, self._unreadable[name])
        if self.loading and _is_name(name) and (self._indexes / name).exists():
            raise IndexLoading(name)
        raise UnknownIndex(name)

    def drop(self, name: str) -> None:
        """Forget an index and its files; raise UnknownIndex or StorageError."""
        with self._lock, storage_errors("dropping an index"):
            if self.loading:
                raise IndexLoading(name)
            if name not in self._mirrors and name not in self._unreadable:
                raise UnknownIndex(name)
            path, aside = self._indexes / name, self._indexes / f"{_ASIDE}{name}"
            mirror = self._mirrors.pop(name, None)
            self._unreadable.pop(name, None)
            if mirror is not None:
                mirror.close()
            path.rename(aside)
            sync_directory(self._indexes)
            shutil.rmtree(aside)

    def mirrors(self) -> list[MirrorLike]:
        """Return all indexes that are open or failed, by name."""
        return [mirror for _, mirror in sorted(self._mirrors.copy().items())]

    def close(self) -> None:
        """Stop background work, close the journals, release the directory. Twice is harmless."""
        with self._lock:
            for mirror in self._mirrors.values():
                mirror.close()
            if self._lock_descriptor >= 0:
                os.close(self._lock_descriptor)
                self._lock_descriptor = -1

    def _load(self, path: Path) -> None:
        try:
            spec = IndexSpec.from_json(json.loads((path / _SPEC).read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, BadName):
            log.exception("index spec unreadable", index=path.name)
            self._unreadable[path.name] = "its spec.json cannot be read"
            return
        self._mirrors[path.name] = self._open(path, spec)

    def _open(self, path: Path, spec: IndexSpec) -> MirrorLike:
        try:
            return Mirror(path, spec, self._options)
        except (ServerError, EngineError, OSError, MemoryError) as error:
            log.exception("index not loaded", index=spec.name)
            return FailedMirror(spec, str(error) or type(error).__name__)


#: What the HTTP API is given.
CatalogLike = Catalog


def _is_name(name: str) -> bool:
    try:
        return bool(check_name(name))
    except BadName:
        return False


def _lock_directory(data_dir: Path) -> int:
    """Return the descriptor that holds the lock; the kernel lets go when the process ends."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DataDirLocked("another Vecmirror server uses this data directory") from None
    return descriptor
