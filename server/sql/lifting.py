"""Text to statements, and long literals out of them, without looking at each character in Python.

A query vector written into a statement is nine kilobytes of digits. ``lift`` takes such literals
out, so that what is left is short, the same from call to call, and can be looked up in a cache.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

from server.filters.errors import SYNTAX_ERROR
from server.filters.tokens import KEYWORDS

from .errors import SqlError

#: Literals of this many characters are taken out; shorter ones are part of what a statement says.
_LONG = 48
#: Numbers of the parameters that stand for them: the protocol's own end at 65,535.
FIRST_LIFTED = 70_000

_STRING = r"'[^']*+'(?:'[^']*+')*+"
_ESCAPED = r"(?<![\w$])[eE]'(?:[^'\\]|\\.|'')*+'"
_PIECES = re.compile(
    rf"(?P<string>{_STRING})|{_ESCAPED}|\"[^\"]*+\"|(?P<comment>--[^\n\r]*+|/\*)"
    r"|(?<![\w$])\$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?\$(?P=tag)\$|(?P<end>;)|(?P<open>['\"])",
    re.DOTALL,
)
_LINE_COMMENT = re.compile(r"--[^\n\r]*+")
_COMMENT_MARK = re.compile(r"/\*|\*/")
_WORD_BEFORE = re.compile(r"(\w+)\s*\Z")
_CONTINUED = re.compile(r"[ \t\f\v]*[\n\r]\s*'")
#: What stands before and behind a literal that ``find`` may look for: no quoted names, comments,
#: dollars or backslashes; behind it short literals, of which none goes on with it.
_PLAIN = re.compile(r"[^\"'$/\\-]*+")
_PLAIN_BEHIND = re.compile(r"(?!\s*')(?:[^\"'$/\\-]|'[^'\\]{0,46}')*+")
_MOST_PLAIN = 1_000
_LIFTED_BY_HAND = re.compile(r"\$7\d{4}")


def split(text: str) -> list[str]:
    """Return the statements of a simple query, without those that hold nothing but comments.

    Raise SqlError if a comment or a quote has no end: nobody knows where its statement ends.
    """
    if ";" not in text:
        return [text] if _says_something(text) else []
    statements: list[str] = []
    start = position = 0
    while match := _PIECES.search(text, position):
        position = match.end()
        if match["comment"] == "/*":
            position = _comment_end(text, match.start())
        elif match["open"]:
            raise _unterminated(
                "quoted string" if match[0] == "'" else "quoted name", match.start()
            )
        elif match["end"]:
            statements.append(text[start : match.start()])
            start = position
    statements.append(text[start:])
    return [statement for statement in statements if _says_something(statement)]


def _says_something(text: str) -> bool:
    """Whether there is anything but space and comments."""
    if text[:1].isalpha():
        return True
    at = 0
    while True:
        at = len(text) - len(text[at:].lstrip())
        if comment := _LINE_COMMENT.match(text, at):
            at = comment.end()
        elif text.startswith("/*", at):
            at = _comment_end(text, at)
        else:
            return at < len(text)


def _comment_end(text: str, start: int) -> int:
    depth = 0
    for match in _COMMENT_MARK.finditer(text, start):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return match.end()
    raise _unterminated("/* comment", start)


def _unterminated(what: str, at: int) -> SqlError:
    return SqlError(SYNTAX_ERROR, f"unterminated {what}", position=at + 1)


@dataclass(frozen=True, slots=True)
class Lifted:
    """A statement without its long literals: ``values[i]`` stands for ``$(FIRST_LIFTED + i)``."""

    text: str
    values: tuple[str, ...] = ()
    _cuts: tuple[tuple[int, int], ...] = ()

    def position(self, at: int) -> int:
        """Return the place in the original text of a character (from 0) of ``text``."""
        index = bisect_right(self._cuts, (at, 0)) - 1
        return at + (self._cuts[index][1] if index >= 0 else 0)


def lift(text: str) -> Lifted:
    """Take the long string literals out of a statement."""
    if len(text) <= _LONG or "'" not in text:
        return Lifted(text)
    if (plain := _lift_one(text)) is not None:
        return plain
    if _LIFTED_BY_HAND.search(text):
        return Lifted(text)
    kept: list[str] = []
    values: list[str] = []
    cuts: list[tuple[int, int]] = []
    start = position = length = removed = 0
    while match := _PIECES.search(text, position):
        position = match.end()
        if match["comment"] == "/*":
            position = _comment_end(text, match.start())
        elif (literal := match["string"]) and len(literal) > _LONG and _is_plain(text, match):
            name = f"${FIRST_LIFTED + len(values)}"
            values.append(literal[1:-1].replace("''", "'"))
            kept += [text[start : match.start()], name]
            length += match.start() - start + len(name)
            removed += len(literal) - len(name)
            cuts.append((length, removed))
            start = position
    kept.append(text[start:])
    return Lifted("".join(kept), tuple(values), tuple(cuts)) if values else Lifted(text)


def _lift_one(text: str) -> Lifted | None:
    """Do as ``lift`` where one long literal stands in a short statement; None for anything else.

    That is what a query vector is in a statement: its characters are looked at by ``find`` only.
    """
    start = text.find("'")
    end = text.find("'", start + 1) + 1
    before, after = text[:start], text[end:]
    if end - start <= _LONG or len(before) + len(after) > _MOST_PLAIN:
        return None
    if not (_PLAIN.fullmatch(before) and _PLAIN_BEHIND.fullmatch(after)):
        return None
    word = _WORD_BEFORE.search(before, max(0, start - 70))
    if word is not None and word[1].lower() not in KEYWORDS:
        return None
    name = f"${FIRST_LIFTED}"
    cut = (start + len(name), end - start - len(name))
    return Lifted(before + name + after, (text[start + 1 : end - 1],), (cut,))


def _is_plain(text: str, literal: re.Match[str]) -> bool:
    """Whether a literal is a value by itself: no type before it, no other part behind it."""
    if _CONTINUED.match(text, literal.end()):
        return False
    before = _WORD_BEFORE.search(text, max(0, literal.start() - 70), literal.start())
    return before is None or before[1].lower() in KEYWORDS
