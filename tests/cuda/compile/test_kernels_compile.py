"""Every kernel compiles for every card as CuPy does it, and uses no more than the table says."""

from __future__ import annotations

import pytest

from gpu.cuda.compile import KERNELS
from gpu.cuda.instances import INSTANCES, names_of
from tests.cuda.compile.cubin import facts
from tests.cuda.compile.limits import column, measured, table
from tests.cuda.compile.nvrtc import ARCHITECTURES, missing

#: CUDA 12.9 compiles Volta, which 13 cannot, in every run; the rest of it nightly.
_IN_EVERY_RUN = {("12.9", 70)} | {("13", a) for a in ARCHITECTURES["13"]}
CASES = [
    pytest.param(
        stem,
        toolkit,
        architecture,
        id=f"{stem}-cuda{toolkit}-sm_{architecture}",
        marks=[] if (toolkit, architecture) in _IN_EVERY_RUN else [pytest.mark.slow],
    )
    for toolkit, architectures in ARCHITECTURES.items()
    for architecture in architectures
    for stem in INSTANCES
    if names_of(stem, architecture)
]


@pytest.mark.parametrize(("stem", "toolkit", "architecture"), CASES)
def test_a_kernel_stays_within_its_limits(stem: str, toolkit: str, architecture: int) -> None:
    if reason := missing(toolkit):
        pytest.skip(reason)
    for name, found in measured(stem, toolkit, architecture).items():
        limits = table().get(name, {}).get(column(toolkit, architecture))
        assert limits is not None, f"{name} is not in limits.json; see README.md"
        assert found.registers <= limits.registers, name
        assert found.shared_bytes <= limits.shared_bytes, name
        assert found.loads_wide >= limits.loads_wide, name


@pytest.mark.parametrize(("stem", "toolkit", "architecture"), CASES)
def test_nothing_is_spilled(stem: str, toolkit: str, architecture: int) -> None:
    if reason := missing(toolkit):
        pytest.skip(reason)
    for name, found in facts(stem, toolkit, architecture).items():
        assert found.usage.stack_bytes == 0, f"{name} keeps something on its stack"
        assert found.usage.local_bytes == 0, f"{name} uses local memory"
        assert found.local_accesses == 0, name


def test_every_kernel_file_has_instances_and_every_limit_a_kernel() -> None:
    assert {p.stem for p in KERNELS.glob("*.cu")} == set(INSTANCES)
    assert set(table()) == {i.name for instances in INSTANCES.values() for i in instances}
