"""LIKE patterns, matched without backtracking over more than one stretch between two % signs.

A pattern is cut at its % signs into segments of characters and ``_``. The first is bound to the
start, the last to the end, those between are found as far left as possible, which is always right
because % matches anything. So the time is at most len(text) * len(pattern).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .errors import INVALID_ESCAPE_SEQUENCE, FilterError

_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


class DanglingEscape(Exception):
    """Matching came to a pattern's last character, and it is an escape that escapes nothing."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stretch of a pattern without %: ``length`` characters; ``bare`` if all are ``_``."""

    expression: re.Pattern[str]
    length: int
    bare: bool


def lower(text: str) -> str:
    """Fold ASCII letters only, as Postgres does under COLLATE "C"."""
    return text.lower() if text.isascii() else text.translate(_ASCII_LOWER)


def escape_pattern(pattern: str, escape: str) -> str:
    """Rewrite a pattern whose ESCAPE is one character, or none, to one with the backslash."""
    if escape == "\\":
        return pattern
    if not escape:
        return pattern.replace("\\", "\\\\")
    rewritten, escaped = [], False
    for character in pattern:
        if character == escape and not escaped:
            rewritten.append("\\")
            escaped = True
        else:
            backslash = character == "\\" and not escaped
            rewritten.append("\\\\" if backslash else character)
            escaped = False
    return "".join(rewritten)


def compile_like(pattern: str, *, fold: bool) -> Callable[[str], bool]:
    """Return what tells whether LIKE, or ILIKE (``fold``), holds; it may raise DanglingEscape.

    Postgres finds a dangling escape only when matching gets there, and so does this.
    """
    pattern = lower(pattern) if fold else pattern
    pieces, dangling = _split(pattern)
    if not (dangling or fold) and (simple := _simple(pieces)):
        return simple
    segments = [_segment(piece) for piece in pieces]

    def matches(text: str) -> bool:
        text = lower(text) if fold else text
        return _dangle(segments, text) if dangling else _match(segments, text)

    return matches


def has_dangling_escape(pattern: str) -> bool:
    """Whether the pattern ends in an escape that escapes nothing."""
    return _split(pattern)[1]


def _simple(pieces: list[list[str | None]]) -> Callable[[str], bool] | None:
    """Return the method of str that does the same, for text, text%, %text and %text%."""
    if any(character is None for piece in pieces for character in piece):
        return None
    texts = ["".join(character or "" for character in piece) for piece in pieces]
    if len(texts) == 1:
        return texts[0].__eq__
    first, last = texts[0], texts[-1]
    if len(texts) == 3 and not first and not last:
        return lambda text: texts[1] in text
    if len(texts) == 2 and not last:
        return lambda text: text.startswith(first)
    if len(texts) == 2 and not first:
        return lambda text: text.endswith(last)
    return None


def _split(pattern: str) -> tuple[list[list[str | None]], bool]:
    """Return the segments, None standing for ``_``, and whether the last escape dangles."""
    pieces: list[list[str | None]] = [[]]
    characters = iter(pattern)
    for character in characters:
        if character == "%":
            pieces.append([])
        elif character == "\\":
            escaped = next(characters, None)
            if escaped is None:
                return _without_empty(pieces), True
            pieces[-1].append(escaped)
        else:
            pieces[-1].append(None if character == "_" else character)
    return _without_empty(pieces), False


def _without_empty(pieces: list[list[str | None]]) -> list[list[str | None]]:
    """Drop what lies between two adjacent % signs."""
    middle = [piece for piece in pieces[1:-1] if piece]
    return [pieces[0], *middle, pieces[-1]] if len(pieces) > 1 else pieces


def _segment(piece: list[str | None]) -> _Segment:
    source = "".join("." if character is None else re.escape(character) for character in piece)
    bare = all(character is None for character in piece)
    return _Segment(re.compile(source, re.DOTALL), len(piece), bare)


def _match(segments: list[_Segment], text: str) -> bool:
    first, last = segments[0], segments[-1]
    if len(segments) == 1:
        return first.expression.fullmatch(text) is not None
    at = _middle(segments, text)
    if at is None or len(text) - last.length < at:
        return False
    return last.expression.match(text, len(text) - last.length) is not None


def _middle(segments: list[_Segment], text: str) -> int | None:
    """Return where the last segment may begin: after all others; None if one is not found."""
    if segments[0].expression.match(text) is None:
        return None
    at = segments[0].length
    for segment in segments[1:-1]:
        found = segment.expression.search(text, at)
        if found is None:
            return None
        at = found.end()
    return at


def _dangle(segments: list[_Segment], text: str) -> bool:
    """Return False unless matching gets to the dangling escape with text left; then raise."""
    last = segments[-1]
    if len(segments) == 1:
        reached = last.expression.match(text) is not None and len(text) > last.length
    elif (at := _middle(segments, text)) is None:
        reached = False
    elif last.bare:
        reached = len(text) - at >= max(last.length, 1)
    else:
        found = last.expression.search(text, at)
        reached = found is not None and found.end() < len(text)
    if reached:
        raise DanglingEscape
    return False


def dangling_error(position: int) -> FilterError:
    """Return the error for a DanglingEscape that counts."""
    message = "LIKE pattern must not end with escape character"
    return FilterError(message, position, INVALID_ESCAPE_SEQUENCE)
