"""SpillFile: bytes come back as they went, and a damaged file is an error."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgsync.spill import SpilledBytes, SpillFile


@given(st.lists(st.binary(max_size=50), max_size=6), st.randoms())
def test_bytes_come_back_in_any_order(parts: list[bytes], order: Random) -> None:
    file = SpillFile(None)
    spilled = [(part, file.append(part)) for part in parts]
    order.shuffle(spilled)
    assert all(where.read() == part for part, where in spilled)


def test_bytes_that_are_missing_raise_os_error(tmp_path: Path) -> None:
    file = SpillFile(tmp_path)
    where = file.append(b"abc")
    with pytest.raises(OSError, match="shorter"):
        SpilledBytes(file, where.offset, where.length + 1).read()


def test_the_file_has_no_name_and_lives_as_long_as_its_bytes(tmp_path: Path) -> None:
    where = SpillFile(tmp_path).append(b"abc")
    assert where.read() == b"abc"
    assert list(tmp_path.iterdir()) == []
