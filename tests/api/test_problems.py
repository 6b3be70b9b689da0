"""The table of problems is complete, consistent and documented."""

from __future__ import annotations

import re
from pathlib import Path

from server import errors
from server.problems import KINDS, UNEXPECTED, Retry, kind_of, problem

DOCS = Path(__file__).parents[2] / "docs" / "http.md"


def _descendants(root: type[Exception]) -> list[type[Exception]]:
    return [kind for child in root.__subclasses__() for kind in (child, *_descendants(child))]


def test_every_error_of_the_server_has_a_kind() -> None:
    groups = {errors.ServerError, errors.NotFound, errors.Conflict}
    for kind in _descendants(errors.ServerError):
        if kind not in groups and kind.__module__ == "server.errors":
            assert any(ancestor in KINDS for ancestor in kind.__mro__), kind


def test_a_code_stands_for_one_status_and_one_retry_policy() -> None:
    seen: dict[str, tuple[int, str, Retry]] = {}
    for kind in KINDS.values():
        found = (kind.status, kind.title, kind.retry)
        assert seen.setdefault(kind.code, found) == found
        assert kind.type == f"urn:vecmirror:problem:{kind.code}"


def test_an_unexpected_error_shows_nothing_of_itself() -> None:
    document = problem(ZeroDivisionError("secret inside"), "abc")
    assert kind_of(ZeroDivisionError()) is UNEXPECTED
    assert document["status"] == 500
    assert "secret" not in str(document)
    assert "abc" in document["detail"]


def test_the_documentation_lists_exactly_the_problems_there_are() -> None:
    documented = re.findall(r"^\| (\d{3}) \| `([a-z0-9-]+)` \|", DOCS.read_text(), re.MULTILINE)
    kinds = [*KINDS.values(), UNEXPECTED]
    assert len(documented) == len(set(documented))
    assert set(documented) == {(str(kind.status), kind.code) for kind in kinds}
