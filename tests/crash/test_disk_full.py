"""A full disk is answered as an error; nothing acknowledged is lost and the index goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from server.mirror import Mirror, MirrorOptions
from tests.change_batches import contents, make_spec

#: A file size limit stands in for the full disk: write(2) fails with EFBIG after a partial write.
SCRIPT = """
import resource, sys
from pathlib import Path
from server.errors import StorageFull
from tests.change_batches import contents
from tests.fix_mirrors import Feeder

feeder = Feeder(Path(sys.argv[1]))
feeder.copy({0: (0.0, 0.0, 0.0)})
size = feeder.mirror.describe()["journal_bytes"]
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 7000, hard))
acked, refused = 0, 0
for number in range(1, 12):
    try:
        feeder.change(1000 + number, feeder.upsert(number, (float(number), 0.0, 0.0)))
    except StorageFull:
        refused += 1
    else:
        assert refused == 0, "a batch went in after one was refused"
        acked = number
assert acked > 0 and refused > 0, (acked, refused)
assert set(feeder.vectors()) == set(range(acked + 1)), "the state is not what was acknowledged"
try:
    feeder.mirror.snapshot()
    print("snapshot written")
except StorageFull:
    print("snapshot refused")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
feeder.change(2000, feeder.upsert(100, (1.0, 1.0, 1.0)))
print("acked", acked)
"""


def test_a_full_disk_refuses_batches_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path.cwd())
    assert ended.returncode == 0, ended.stderr
    acked = int(ended.stdout.split()[-1])
    mirror = Mirror(tmp_path, make_spec(columns=()), MirrorOptions(background=False))
    assert set(contents(mirror.state)) == {*range(acked + 1), 100}
    mirror.close()
