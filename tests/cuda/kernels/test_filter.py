"""filter.cu runs programs as ``tests/filter_interpreter.py`` says, on columns that grow.

FILTER_FUZZ_SEED replays a run.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from gpu import IndexParams
from gpu.arrays import U8, Bool
from gpu.cuda.columns import DeviceColumns
from gpu.cuda.device import Device
from gpu.cuda.memory import Budget
from gpu.cuda_backend import CudaBackend
from gpu.filter_program import FilterColumn, FilterProgram
from gpu.rows import Rows as RawRows
from server.filters import FilterError, parse
from tests.cuda.conftest import MakeEmulated
from tests.cuda.emulator import EmulatedDevice
from tests.filter_interpreter import interpret
from tests.fix_filters import column_view
from tests.random_filters import COLUMNS, N_ROWS, Expressions, Rows

SEED = int(os.environ.get("FILTER_FUZZ_SEED", str(random.SystemRandom().randrange(2**32))))
#: Programs for each schedule.
PROGRAMS = 150
#: Programs of which every access is checked.
CHECKED_PROGRAMS = 40


def raw_rows() -> RawRows:
    return RawRows(IndexParams(dim=4, metric="l2"))


def random_programs(chance: random.Random, rows: Rows, count: int) -> Iterator[FilterProgram]:
    """Yield ``count`` programs of random predicates over ``rows``."""
    expressions, views = Expressions(chance), rows.views()
    while count:
        try:
            expression = parse(expressions.predicate(3), None, COLUMNS)
        except FilterError:
            continue
        program = expression.program(views.__getitem__)
        if program is not None:
            count -= 1
            yield program


def columns_of(rows: Rows) -> Mapping[str, FilterColumn]:
    return {
        name: FilterColumn(v.values, v.valid, v.offsets, v.element_valid)
        for name, v in rows.views().items()
    }


def bits(flags: Bool) -> U8:
    return np.packbits(flags, bitorder="little")


def agree(
    found: U8 | None,
    program: FilterProgram,
    columns: Mapping[str, FilterColumn],
    alive: Bool,
    first: int,
) -> bool:
    """Whether bits from row ``first`` on, None for an error, are what the definition says."""
    later = np.arange(len(alive)) >= first
    wanted, failed = interpret(program, columns, alive & later)
    if failed or found is None:
        return failed and found is None
    _, dead_too = interpret(program, columns, later)
    # Of dead rows with an error the answer may be anything.
    compared = alive[first:] if dead_too else np.ones(len(alive) - first, np.bool_)
    got = np.unpackbits(found, bitorder="little").astype(np.bool_)
    assert not got[len(compared) :].any()
    return not ((got[: len(compared)] != wanted[first:]) & compared).any()


def compare(device: Device, count: int) -> None:
    print(f"FILTER_FUZZ_SEED={SEED}")
    chance = random.Random(SEED)
    rows = Rows(chance)
    columns, raw = columns_of(rows), raw_rows()
    backend = CudaBackend(device, small_filter=0)
    for program in random_programs(chance, rows, count):
        share, first = chance.choice([0.05, 0.7, 1.0]), chance.choice([0, 32, 64])
        alive = np.array([chance.random() < share for _ in range(N_ROWS)])
        span = range(first, N_ROWS)
        found = backend.filter_rows(raw, columns, program, bits(alive), span)
        assert agree(found, program, columns, alive, first), program


def test_random_programs_mean_what_the_definition_says(device: Device) -> None:
    compare(device, PROGRAMS)


def test_no_access_is_wrong(checked: EmulatedDevice) -> None:
    compare(checked, CHECKED_PROGRAMS)


@pytest.mark.parametrize("lazy", [False, True])
def test_columns_are_brought_up_as_they_grow(lazy: bool, emulated: MakeEmulated) -> None:
    chance, rng = random.Random(SEED), np.random.default_rng(SEED)
    n = 150_000  # past the first capacity, and past its double
    values, valid = rng.integers(0, 100, n).astype(np.int32), rng.random(n) < 0.9
    view = column_view("int4", [1])
    program = parse("i < 30", None, {"i": "int4"}).program(lambda name: view)
    assert program is not None
    backend, raw = CudaBackend(emulated(lazy=lazy), small_filter=0), raw_rows()
    alive = np.full(n // 8, 255, np.uint8)
    # An older state may ask in between.
    for end in (1, 31, 33, 1000, 970, 1001, 65_536, 65_537, n, 999, n):
        column = {"i": FilterColumn(values[:end], valid[:end])}
        first = chance.choice([0, end // 2, end - 1]) // 32 * 32
        found = backend.filter_rows(raw, column, program, alive, range(first, end))
        assert found is not None
        kept = (values[first:end] < 30) & valid[first:end]
        np.testing.assert_array_equal(found, bits(kept))


def test_arrays_are_brought_up_as_they_grow(emulated: MakeEmulated) -> None:
    rng = np.random.default_rng(SEED)
    n = 30_000
    lengths = rng.integers(0, 4, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = rng.integers(0, 50, offsets[-1]).astype(np.int32)
    valid, item_valid = rng.random(n) < 0.9, rng.random(len(items)) < 0.9
    view = column_view("int4[]", [[1]])
    program = parse("i && '{7,20,49}'", None, {"i": "int4[]"}).program(lambda name: view)
    assert program is not None
    backend, raw = CudaBackend(emulated(lazy=True), small_filter=0), raw_rows()
    alive = np.full(-(-n // 8), 255, np.uint8)
    good = np.isin(items, [7, 20, 49]) & item_valid
    owners = np.repeat(np.arange(n), lengths)
    wanted = np.bincount(owners[good], minlength=n).astype(np.bool_) & valid
    # The last is an older state again.
    for end in (5, 33, 4000, 4001, n, 4000):
        there = offsets[end]
        column = FilterColumn(items[:there], valid[:end], offsets[: end + 1], item_valid[:there])
        found = backend.filter_rows(raw, {"i": column}, program, alive, range(end))
        assert found is not None
        np.testing.assert_array_equal(found, bits(wanted[:end]))
    whole = FilterColumn(items, valid, offsets, item_valid)
    found = backend.filter_rows(raw, {"i": whole}, program, alive, range(n))
    assert found is not None
    np.testing.assert_array_equal(found, bits(wanted))


def test_without_room_the_host_filters_and_nothing_stays(emulated: MakeEmulated) -> None:
    backend, raw = CudaBackend(emulated(total_bytes=4 << 20), small_filter=0), raw_rows()
    n, view = 1_000_000, column_view("int8", [1])
    program = parse("i < 30", None, {"i": "int8"}).program(lambda name: view)
    assert program is not None
    before = backend.device.memory().free_bytes
    column = {"i": FilterColumn(np.zeros(n, np.int64), np.ones(n, np.bool_))}
    alive = np.full(n // 8, 255, np.uint8)
    assert backend.filter_rows(raw, column, program, alive, range(n)) is None
    assert backend.columns_refused == 1
    assert backend.device.memory().free_bytes == before
    few = {"i": FilterColumn(column["i"].values[:100], column["i"].valid[:100])}
    other = raw_rows()
    assert backend.filter_rows(other, few, program, alive, range(100)) is not None


def test_columns_give_way_to_what_an_index_cannot_do_without(emulated: MakeEmulated) -> None:
    device = emulated(total_bytes=2 << 20)
    budget, columns = Budget(device), DeviceColumns(device, Budget(device))
    n = 64_000
    column = FilterColumn(np.zeros(n, np.int64), np.ones(n, np.bool_))
    raw, stream = raw_rows(), device.stream()
    assert columns.of(raw, ["i"], [column], n, stream) is not None
    left = budget.left_bytes
    columns.give_way(left)
    assert columns.refused() == 0
    columns.give_way(left + 1)
    assert columns.refused() == 1
    assert budget.left_bytes > left
    assert columns.of(raw, ["i"], [column], n, stream) is None


TINY = [5e-324, 1e-310, -5e-324, 0.0, 2.0, 1e308, float("nan"), None]
TINY4 = [1e-45, 1e-40, -1e-45, 0.0, 2.0, 3e38, float("nan"), None]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("f + 0 > 0", [0, 1, 4, 5, 6]),
        ("f * 1 > 0", [0, 1, 4, 5, 6]),
        ("f - 1e-310 >= 0", [1, 4, 5, 6]),
        ("f * 2 = 1e-323", None),
        ("f / 1 < 0", [2]),
        ("g + 0::float4 > 0", [0, 1, 4, 5, 6]),
        ("g * 1::float4 = '1e-45'::float4", [0]),
        ("g * 0.5::float4 > 0", None),
        ("g::float8 * 0.5 > 0", [0, 1, 4, 5, 6]),
        ("(f::float8 * 1e-20)::float4 > 0", None),
    ],
)
def test_small_floats_are_not_flushed_to_zero(
    text: str, kept: list[int] | None, one_device: Device
) -> None:
    views = {"f": column_view("float8", TINY), "g": column_view("float4", TINY4)}
    program = parse(text, None, {"f": "float8", "g": "float4"}).program(views.__getitem__)
    assert program is not None
    columns = {name: FilterColumn(view.values, view.valid) for name, view in views.items()}
    backend = CudaBackend(one_device, small_filter=0)
    found = backend.filter_rows(raw_rows(), columns, program, bits(np.ones(8, np.bool_)), range(8))
    wanted = None if kept is None else bits(np.isin(np.arange(8), kept)).tolist()
    assert (None if found is None else found.tolist()) == wanted


def test_values_come_fully_coalesced_and_the_stack_meets_no_bank_twice(
    checked: EmulatedDevice,
) -> None:
    n, views = 1024, {"i": column_view("int4", [1]), "j": column_view("int8", [1])}
    text = "i + j > 5 AND (j IS NULL OR i < 7)"
    program = parse(text, None, {"i": "int4", "j": "int8"}).program(views.__getitem__)
    assert program is not None
    valid = np.ones(n, np.bool_)
    columns = {
        "i": FilterColumn(np.arange(n, dtype=np.int32), valid),
        "j": FilterColumn(np.arange(n, dtype=np.int64), valid),
    }
    backend = CudaBackend(checked, small_filter=0)
    checked.traffic()
    assert backend.filter_rows(raw_rows(), columns, program, bits(valid), range(n)) is not None
    traffic = checked.traffic()
    assert traffic.sectors_per_request("value-32") == 4.0  # 128 bytes of a warp
    assert traffic.sectors_per_request("value-64") == 8.0
    assert traffic.sectors_per_request("valid") == 1.0
    # Numbers of eight bytes take two turns of the banks, whatever their order.
    assert traffic.wavefronts_per_request("stack") == 2.0
