"""A power cut: whatever was not fsynced may be gone, and everything acknowledged is still there.

The model: of each journal file only the bytes it had at its last fsync reach the disk, and of what
was written after that any prefix, or zeros of the same length.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pgsync.changes import BatchKind
from server.mirror import Mirror, MirrorOptions
from tests.change_batches import contents
from tests.fix_mirrors import Feeder

Sizes = dict[str, int]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Sizes:
    """Return the size that each file had when it was last synced, by path."""
    sizes: Sizes = {}
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)

        def record(descriptor: int, real: Callable[[int], None] = real) -> None:
            size = os.fstat(descriptor).st_size
            real(descriptor)
            sizes[str(Path(f"/proc/self/fd/{descriptor}").readlink())] = size

        monkeypatch.setattr(os, name, record)
    return sizes


@pytest.mark.parametrize("seed", range(4))
def test_everything_acknowledged_survives_a_power_cut(
    tmp_path: Path, synced: Sizes, seed: int
) -> None:
    chance = random.Random(seed)
    (tmp_path / "live").mkdir()
    feeder = Feeder(tmp_path / "live", segment_bytes=3000)
    feeder.send(BatchKind.COPY_BEGIN)
    for key in range(4):
        feeder.send(BatchKind.COPY, [feeder.upsert(key, (0.0, 0.0, float(key)))])
        _cut(feeder, synced, chance, tmp_path / "cut", 0)
    ack = feeder.send(BatchKind.COPY_END, watermark=100)
    for number in range(12):
        _cut(feeder, synced, chance, tmp_path / "cut", ack.durable_lsn)
        key = chance.randrange(6)
        ack = feeder.change(200 + number, feeder.upsert(key, (1.0, 1.0, float(number))))
        if chance.random() < 0.2:
            feeder.mirror.compact()
        if chance.random() < 0.2:
            feeder.mirror.snapshot()
    feeder.mirror.close()


def _cut(feeder: Feeder, synced: Sizes, chance: random.Random, copy: Path, durable: int) -> None:
    """Cut the power now, in a copy, and open what is left."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(feeder.path, copy)
    for path in (copy / "journal").iterdir():
        original = str(feeder.path / "journal" / path.name)
        data, kept = path.read_bytes(), synced.get(original, 0)
        rest = data[kept:]
        cut = chance.randrange(len(rest) + 1)
        path.write_bytes(data[:kept] + chance.choice([rest[:cut], bytes(len(rest)), rest]))
    mirror = Mirror(copy, feeder.spec, MirrorOptions(background=False))
    assert mirror.describe()["durable_lsn"] == f"0/{durable:X}"
    if durable:
        assert contents(mirror.state) == contents(feeder.mirror.state)
    mirror.close()
