"""The container of index files: named arrays with a checksum over every byte.

    "VECMIRIX" u64 version          head, 16 bytes
    sections, each padded with zeros to 64 bytes
    directory                       JSON: the caller's header, and what and where the sections are
    u64 directory offset, u64 directory bytes, u64 xxh64, "VECMIREN"      trailer, 32 bytes

All numbers are little-endian. A section's checksum covers its padding; the trailer's covers the
directory and the two numbers before it; head and end marks are compared byte by byte. So a changed,
missing or added byte anywhere raises FileCorrupt.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash

from .arrays import AnyArray
from .errors import FileCorrupt

VERSION = 1
ALIGNMENT = 64
_HEAD = struct.Struct("<8sQ")
_TRAILER = struct.Struct("<QQQ8s")
_MAGIC, _END = b"VECMIRIX", b"VECMIREN"
#: Rows are read and written in pieces of this size.
PIECE_BYTES = 16 << 20


class Writer:
    """Writes sections one after another, then the directory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sections: list[dict[str, Any]] = []
        file.write(_HEAD.pack(_MAGIC, VERSION))
        self._pad(_HEAD.size, xxhash.xxh64())

    def section(
        self, name: str, dtype: str, shape: tuple[int, ...], pieces: Iterable[AnyArray]
    ) -> None:
        """Write one array given in pieces along its first axis."""
        offset, digest, size = self._file.tell(), xxhash.xxh64(), 0
        for piece in pieces:
            plain = np.ascontiguousarray(piece, dtype=np.dtype(dtype)).reshape(-1)
            data = plain.view(np.uint8).data
            digest.update(data)
            size += self._file.write(data)
        self._pad(size, digest)
        entry = {"name": name, "dtype": dtype, "shape": list(shape), "offset": offset}
        self._sections.append({**entry, "xxh64": digest.hexdigest()})

    def array(self, name: str, array: AnyArray) -> None:
        """Write one array that is in memory."""
        self.section(name, array.dtype.newbyteorder("<").str, array.shape, [array])

    def finish(self, header: dict[str, Any]) -> None:
        """Write the directory with ``header`` and the trailer."""
        offset = self._file.tell()
        directory = json.dumps({**header, "sections": self._sections}).encode()
        numbers = struct.pack("<QQ", offset, len(directory))
        self._file.write(directory)
        checksum = xxhash.xxh64_intdigest(directory + numbers)
        self._file.write(_TRAILER.pack(offset, len(directory), checksum, _END))

    def _pad(self, size: int, digest: xxhash.xxh64) -> None:
        padding = bytes(-size % ALIGNMENT)
        digest.update(padding)
        self._file.write(padding)


class Reader:
    """Checks the trailer and directory, then gives sections; every error is FileCorrupt."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        size = file.seek(0, os.SEEK_END)
        _require(size >= ALIGNMENT + _TRAILER.size, "the file is too short")
        offset, length, checksum, end = _TRAILER.unpack(self._read(size - _TRAILER.size, 32))
        _require(end == _END, "the end mark is missing: the file was cut")
        _require(offset + length == size - _TRAILER.size, "the directory is not where it should be")
        directory = self._read(offset, length)
        numbers = struct.pack("<QQ", offset, length)
        _require(
            xxhash.xxh64_intdigest(directory + numbers) == checksum,
            "the directory's checksum is wrong",
        )
        head = _HEAD.pack(_MAGIC, VERSION).ljust(ALIGNMENT, b"\0")
        _require(self._read(0, ALIGNMENT) == head, f"not an index file of version {VERSION}")
        self.header: dict[str, Any] = json.loads(directory)
        self._sections = {entry["name"]: entry for entry in self.header["sections"]}
        self._check_cover(offset)

    def __contains__(self, name: str) -> bool:
        """Say whether the file has a section ``name``."""
        return name in self._sections

    def array(self, name: str) -> AnyArray:
        """Return one whole section as a new array."""
        entry = self._sections[name]
        out = np.empty(entry["shape"], np.dtype(entry["dtype"]))
        flat, filled = out.reshape(-1), 0
        for piece in self.pieces(name):
            flat[filled : filled + piece.size] = piece.reshape(-1)
            filled += piece.size
        return out

    def pieces(self, name: str) -> Iterator[AnyArray]:
        """Yield a section in pieces along its first axis; the checksum is known after the last."""
        entry = self._sections[name]
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        item_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        total = item_bytes * shape[0]
        step = max(1, PIECE_BYTES // max(1, item_bytes)) * item_bytes
        digest = xxhash.xxh64()
        for done in range(0, total, max(1, step)):
            data = self._read(entry["offset"] + done, min(step, total - done))
            digest.update(data)
            yield np.frombuffer(data, dtype).reshape(-1, *shape[1:])
        digest.update(self._read(entry["offset"] + total, -total % ALIGNMENT))
        _require(digest.hexdigest() == entry["xxh64"], f"the checksum of {name!r} is wrong")

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(size)
        _require(len(data) == size, "the file ends too early")
        return data

    def _check_cover(self, directory_offset: int) -> None:
        """Sections must follow each other without a gap, so that checksums cover all bytes."""
        place = ALIGNMENT
        for entry in self.header["sections"]:
            _require(entry["offset"] == place, "sections do not follow each other")
            size = np.dtype(entry["dtype"]).itemsize * int(np.prod(entry["shape"], dtype=np.int64))
            place += size + -size % ALIGNMENT
        _require(place == directory_offset, "the sections do not reach the directory")


def write_atomically(path: Path, fill: Callable[[Writer], dict[str, Any]]) -> None:
    """Write a file under a temporary name, fsync, rename, fsync the directory.

    ``fill`` writes the sections and returns the header. After a crash at any point ``path`` is the
    old file or the new one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            writer = Writer(file)
            writer.finish(fill(writer))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def opened(path: Path) -> Iterator[Reader]:
    """Open an index file for reading; raise FileCorrupt for whatever is wrong with its content."""
    with path.open("rb") as file:
        try:
            yield Reader(file)
        except (KeyError, TypeError, ValueError, struct.error, OverflowError) as error:
            raise FileCorrupt(f"{path.name}: not a valid index file") from error
        except FileCorrupt as error:
            raise FileCorrupt(f"{path.name}: {error}") from error


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise FileCorrupt(message)
