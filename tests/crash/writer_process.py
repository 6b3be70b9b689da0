"""A process that feeds a mirror until it is killed: told what to do by its arguments.

Usage: python -m tests.crash.writer_process DIRECTORY SEED START [compact]

With ``compact`` a thread forgets dead rows without end, so that a kill nearly always comes in the
midst of it; it prints ``compacted ROW_IDS``.

It continues at transaction START and prints ``sent N`` before and ``acked N DURABLE`` after each
submit, unbuffered. Everything follows from SEED, so the parent knows what each transaction holds.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from pathlib import Path

from pgsync.changes import BatchKind, Op
from server.mirror import Mirror, MirrorOptions
from tests.change_batches import Change, change_batch, make_spec

SPEC = make_spec(columns=())
#: Small, so that rotation and snapshots happen in the time a process lives.
OPTIONS = MirrorOptions(
    segment_bytes=8000, snapshot_bytes=6000, snapshot_age_s=1e9, background=True
)
FIRST_LSN = 1000


def transaction(seed: int, number: int) -> list[Change]:
    """Return the changes of one transaction: each upserts five of a hundred keys."""
    chance = random.Random(seed * 1_000_003 + number)
    lsn = FIRST_LSN + 10 * number
    return [
        Change(Op.UPSERT, key, vector=(float(number), float(key), 1.0), lsn=lsn, ordinal=n)
        for n, key in enumerate(chance.sample(range(100), 5))
    ]


def tell(line: str) -> None:
    """Print a line in one piece: two threads do so."""
    os.write(1, f"{line}\n".encode())


def compact_for_ever(mirror: Mirror) -> None:
    """Compact again and again, slowly."""
    while True:
        if mirror.compact(lambda: time.sleep(0.001)):
            tell(f"compacted {mirror.state.n_rows}")


def main() -> None:
    """Feed the mirror for ever."""
    directory, seed, start = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    mirror = Mirror(directory, SPEC, OPTIONS)
    if mirror.state.phase == "new":
        mirror.submit(change_batch(SPEC, BatchKind.COPY_BEGIN))
        mirror.submit(change_batch(SPEC, BatchKind.COPY_END, watermark=FIRST_LSN))
    if "compact" in sys.argv[4:]:
        threading.Thread(target=compact_for_ever, args=[mirror], daemon=True).start()
    number = start
    while True:
        changes = transaction(seed, number)
        tell(f"sent {number}")
        half = change_batch(SPEC, BatchKind.CHANGES, changes[:2], watermark=changes[0].lsn)
        mirror.submit(half)
        whole = change_batch(SPEC, BatchKind.CHANGES, changes[2:], watermark=changes[0].lsn + 1)
        ack = mirror.submit(whole)
        tell(f"acked {number} {ack.durable_lsn}")
        number += 1


if __name__ == "__main__":
    main()
