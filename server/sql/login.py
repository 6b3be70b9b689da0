"""Who is connected: what a session is told of its client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from server.auth import Scope

from .answers import SqlSession


@dataclass(frozen=True, slots=True)
class Login:
    """A client that has logged in. ``user`` and ``database`` are what it says; only scope counts.

    ``parameters``: the rest of its startup message (application_name, options, ...).
    """

    user: str
    database: str
    scope: Scope
    process_id: int
    parameters: Mapping[str, str]


#: Makes the session of a connection.
OpenSession = Callable[[Login], SqlSession]
