"""Rows in and out of blocks: codes are spread over a block, biases, gains and ids lie behind."""

from __future__ import annotations

from .jit import compiled
from .layout import BLOCK, code_byte
from .simd import peek_i32, peek_i64, peek_u8, peek_u16, poke_i32, poke_u8, poke_u16


@compiled
def _put_codes(block: int, bits: int, m: int, row: int, codes: int) -> None:
    for j in range(m):
        at = block + code_byte(bits, j, row)
        if bits == 8:
            poke_u8(at, peek_u8(codes + j))
        else:
            code = (peek_u8(codes + (j >> 1)) >> (4 * (j & 1))) & 15
            both = peek_u8(at)
            poke_u8(at, (both & 15) | (code << 4) if row & 16 else (both & 240) | code)


@compiled
def _take_codes(block: int, bits: int, m: int, row: int, codes: int) -> None:
    for j in range(m):
        both = peek_u8(block + code_byte(bits, j, row))
        if bits == 8:
            poke_u8(codes + j, both)
        else:
            code = both >> 4 if row & 16 else both & 15
            shift = 4 * (j & 1)
            before = peek_u8(codes + (j >> 1)) if shift else 0
            poke_u8(codes + (j >> 1), before | (code << shift))


@compiled
def put_rows(
    shape: tuple[int, int, int, int],
    blocks: int,
    ids: int,
    places: int,
    n: int,
    codes: int,
    bias: int,
    gain: int,
    row_ids: int,
    lists: int,
) -> None:
    """Write n rows to their places i64[n] in their lists i32[n].

    ``shape``: bits, m, bytes of a block's codes, bytes of a stored code; ``blocks`` and ``ids``
    i64[L]: addresses. Neighbouring rows share bytes of codes: nobody else may write.
    """
    bits, m, code_bytes, row_bytes = shape
    for i in range(n):
        number, place = peek_i32(lists + 4 * i), peek_i64(places + 8 * i)
        block = peek_i64(blocks + 8 * number) + (place // BLOCK) * (code_bytes + 4 * BLOCK)
        row = place % BLOCK
        _put_codes(block, bits, m, row, codes + row_bytes * i)
        poke_u16(block + code_bytes + 2 * row, peek_u16(bias + 2 * i))
        poke_u16(block + code_bytes + 2 * BLOCK + 2 * row, peek_u16(gain + 2 * i))
        poke_i32(peek_i64(ids + 8 * number) + 4 * place, peek_i64(row_ids + 8 * i))


@compiled
def take_rows(
    shape: tuple[int, int, int, int],
    blocks: int,
    first: int,
    n: int,
    codes: int,
    bias: int,
    gain: int,
) -> None:
    """Read rows [first, first + n) of the list whose blocks begin at ``blocks``."""
    bits, m, code_bytes, row_bytes = shape
    for i in range(n):
        place = first + i
        block = blocks + (place // BLOCK) * (code_bytes + 4 * BLOCK)
        row = place % BLOCK
        _take_codes(block, bits, m, row, codes + row_bytes * i)
        poke_u16(bias + 2 * i, peek_u16(block + code_bytes + 2 * row))
        poke_u16(gain + 2 * i, peek_u16(block + code_bytes + 2 * BLOCK + 2 * row))
