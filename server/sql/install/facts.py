"""What goes into an installation: where the port is, what is wanted, what the database has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .names import DEFAULT_NAME

#: In the order in which objects can be dropped.
Kind = Literal["VIEW", "FUNCTION", "FOREIGN TABLE", "SERVER", "SCHEMA"]

SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PortAddress:
    """The SQL port as the client database sees it. ``root_certificate``: a path over there."""

    host: str
    port: int
    sslmode: SslMode = "disable"
    root_certificate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is wanted.

    ``mapped_roles`` may connect to the port ("CURRENT_USER" and "PUBLIC" are keywords);
    ``readers`` are granted the view over the base table and nothing else. ``key`` is the API key,
    None where the server has none.
    """

    schema: str = DEFAULT_NAME
    server: str = DEFAULT_NAME
    mapped_roles: tuple[str, ...] = ("CURRENT_USER",)
    readers: tuple[str, ...] = ()
    key: str | None = field(default=None, repr=False)
    fetch_size: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseTable:
    """The mirrored table in the client database. Empty ``columns``: nobody has looked."""

    schema: str
    table: str
    columns: tuple[str, ...] = ()
    row_security: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """An object of ours. ``arguments`` are those of a function; ``readers`` may SELECT from it."""

    kind: Kind
    schema: str | None
    name: str
    index: str | None
    digest: str
    arguments: str = ""
    readers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFacts:
    """What a look at the client database told; by default nobody has looked.

    ``vector_schema`` None: there is no pgvector. ``server_options``: of the foreign server, None
    where there is none. ``mappings``: role -> options, None where they are not ours to see.
    ``missing_extensions``: to be created.
    """

    looked: bool = False
    vector_schema: str | None = "public"
    dblink_schema: str = "public"
    missing_extensions: tuple[str, ...] = ("postgres_fdw", "dblink")
    base: BaseTable | None = None
    schema_exists: bool = False
    server_options: Mapping[str, str] | None = None
    mappings: Mapping[str, Mapping[str, str] | None] = field(default_factory=dict, repr=False)
    current_user: str | None = None
    existing: tuple[Existing, ...] = ()
