"""The scan loop is as short as it was meant to be, on the card the goal was set for."""

from __future__ import annotations

import pytest

from tests.cuda.compile.cubin import Code, Instruction, code
from tests.cuda.compile.nvrtc import compiled, missing

#: Instructions of the scan loop for each look-up in a table, at most 4.0: one extracts a code and
#: makes it an address, one loads, one adds; the loop's own are shared by 64 look-ups (4 bits, which
#: are also split into halves) or 32. Halves have to be converted, which is one more.
MOST_PER_LOOKUP = {
    "scan_slices<4, float, true>": 4.0,
    "scan_slices<8, float, true>": 4.0,
    "scan_slices<8, f16, true>": 5.0,
}


def _lookups(body: list[Instruction]) -> int:
    return sum(i.name.startswith("LDS") for i in body)


def scan_loop(kernel: Code) -> list[Instruction]:
    """Return the innermost loop with the most look-ups that also reads codes."""
    bodies = [list(b) for b in kernel.innermost_loops()]
    reading = [b for b in bodies if any(".128" in i.name for i in b)]
    return max(reading, key=_lookups)


@pytest.mark.parametrize("name", MOST_PER_LOOKUP)
def test_the_scan_loop_is_as_short_as_it_was_made(name: str) -> None:
    if reason := missing("13"):
        pytest.skip(reason)
    module = compiled("scan_slices", "13", 90)
    loop = scan_loop(code(module.cubin)[module.symbols[name]])
    assert _lookups(loop) >= 32  # 16 bytes of codes for two groups
    assert len(loop) / _lookups(loop) <= MOST_PER_LOOKUP[name]
    assert sum("LDG" in i.name and ".128" in i.name for i in loop) >= 1


def test_loops_and_loads_are_counted_as_they_stand_in_the_listing() -> None:
    listing = """
.L_x_0:
        /*0000*/                   LDG.E.128.CONSTANT R4, desc[UR6][R2.64] ;
.L_x_1:
        /*0010*/                   LDS R5, [R6] ;
        /*0020*/              @!P0 LDS.U.64 R8, [R6+0x8] ;
        /*0030*/               @P1 BRA `(.L_x_1) ;
        /*0040*/               @P2 BRA `(.L_x_0) ;
        /*0050*/                   BRA `(.L_x_2) ;
.L_x_2:
        /*0060*/                   STL [R1], R2 ;
        /*0070*/                   EXIT ;
"""
    kernel = Code(listing)
    assert [len(b) for b in kernel.loops()] == [3, 5]
    assert [len(b) for b in kernel.innermost_loops()] == [3]
    assert kernel.wide_loads() == 1
    assert kernel.count("LDS") == 2
    assert kernel.count("LDL", "STL") == 1
