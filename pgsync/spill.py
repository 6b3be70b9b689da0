"""SpillFile: a temporary file for the bytes of one streamed transaction."""

from __future__ import annotations

import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path


class SpillFile:
    """Append-only and without a name: the space is free again once nobody refers to it."""

    def __init__(self, directory: Path | None) -> None:
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - closed by the finalizer
        self._end = 0
        weakref.finalize(self, self._file.close)

    def append(self, data: bytes | bytearray) -> SpilledBytes:
        """Write the bytes; raise OSError when the disk does not take them."""
        self._file.seek(self._end)
        self._file.write(data)
        spilled = SpilledBytes(self, self._end, len(data))
        self._end += len(data)
        return spilled

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes of one ``append``; raise OSError when the disk does not give them."""
        self._file.seek(offset)
        data = self._file.read(length)
        if len(data) != length:
            raise OSError("the spill file of a streamed transaction is shorter than what it took")
        return data


@dataclass(frozen=True, slots=True)
class SpilledBytes:
    """Where bytes lie in a spill file, which lives as long as this."""

    file: SpillFile
    offset: int
    length: int

    def read(self) -> bytes:
        """Return the bytes; raise OSError when the disk does not give them."""
        return self.file.read(self.offset, self.length)
