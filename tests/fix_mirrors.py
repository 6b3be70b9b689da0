"""A mirror in a temporary directory, fed by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pgsync.changes import BatchKind, Op
from server.acks import Ack
from server.mirror import Mirror, MirrorOptions
from server.spec import IndexSpec
from tests.change_batches import Change, change_batch, contents, make_spec


class Feeder:
    """A sidecar in a few lines: it holds the mirror and sends it batches."""

    def __init__(self, path: Path, spec: IndexSpec | None = None, **options: Any) -> None:
        self.path, self.spec = path, spec or make_spec(columns=())
        self.options = MirrorOptions(**{"background": False, **options})
        self.mirror = Mirror(path, self.spec, self.options)

    def send(self, kind: BatchKind, changes: Sequence[Change] = (), **fields: Any) -> Ack:
        """Send one batch; ``sync`` goes to submit, the rest into the batch."""
        sync = fields.pop("sync", False)
        return self.mirror.submit(change_batch(self.spec, kind, changes, **fields), sync=sync)

    def copy(self, rows: dict[Any, Any], watermark: int = 100, epoch: int = 1) -> Ack:
        """Copy ``rows`` (key -> vector) as a whole."""
        changes = [self.upsert(key, vector) for key, vector in rows.items()]
        self.send(BatchKind.COPY_BEGIN, epoch=epoch)
        self.send(BatchKind.COPY, changes, epoch=epoch)
        return self.send(BatchKind.COPY_END, watermark=watermark, epoch=epoch)

    def change(self, lsn: int, *changes: Change, **fields: Any) -> Ack:
        """Send a transaction that committed at ``lsn``, whole."""
        placed = [
            Change(c.op, c.key, c.old, c.state, c.vector, c.columns, lsn, number)
            for number, c in enumerate(changes)
        ]
        return self.send(BatchKind.CHANGES, placed, **{"watermark": lsn + 1, **fields})

    def upsert(self, key: Any, vector: Any = None, **fields: Any) -> Change:
        """Return an upsert."""
        return Change(Op.UPSERT, key, vector=vector, **fields)

    def vectors(self) -> dict[Any, Any]:
        """Return the vectors that the index shows, by key."""
        return {key: vector for key, (vector, _) in contents(self.mirror.state).items()}

    def reopen(self) -> None:
        """Close the mirror and open it again from disk."""
        self.mirror.close()
        self.mirror = Mirror(self.path, self.spec, self.options)


@pytest.fixture
def feeder(tmp_path: Path) -> Iterator[Feeder]:
    """Return a feeder of an empty index without filter columns, 3 dims, int8 keys."""
    feeder = Feeder(tmp_path)
    yield feeder
    feeder.mirror.close()
