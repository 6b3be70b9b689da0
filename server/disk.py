"""The few file operations that durability rests on, with the server's errors.

A new file or a rename is only safe once its directory was fsynced too
(https://man7.org/linux/man-pages/man2/fsync.2.html).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import StorageError, StorageFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Raise StorageFull or StorageError, saying ``what`` was tried, instead of OSError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(f"{what}: no space left on the server's disk") from error
        raise StorageError(f"{what}: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def size_of(paths: Iterable[Path]) -> int:
    """Return the bytes of files, without those that are gone meanwhile."""
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Write a new file and fsync it; the directory is the caller's to sync."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_tree(path: Path) -> None:
    """Fsync every file and directory below ``path``, and ``path`` itself."""
    for entry in path.iterdir():
        if entry.is_dir():
            sync_tree(entry)
        else:
            with entry.open("rb") as file:
                os.fsync(file.fileno())
    sync_directory(path)
