"""Errors as RFC 9457 problem documents: the one table from exception to status, type and retry.

The SQL port takes its SQLSTATEs from the same table.

Every error of every route is built here. A problem has the members ``type`` (a URN that never
changes), ``title``, ``status``, ``detail`` (a sentence that says what to do), ``code`` (the last
part of the type), ``retry`` (see Retry), ``request_id``, and those of ``Kind.members``. Details
never contain row values, keys or the server's internals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from gpu.errors import BackendError, BadInput, DeviceLost, IndexFull
from pgsync.lsn import format_lsn

from . import auth, batcher, errors, searching, source
from .filters import FilterError

TYPE_PREFIX = "urn:vecmirror:problem:"


class Retry(Enum):
    """What a client should do with the same request."""

    NEVER = "never"  # it fails again: change the request
    LATER = "later"  # it may succeed: try again with back-off
    RESYNC = "resync"  # the feed must start a new copy of the table


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem.

    ``members`` are further members, taken from the exception's attributes. ``advice`` is the
    sentence that says what to do, where the exception's own message cannot know. ``sqlstate`` is
    what the SQL port calls it (Postgres' documentation, appendix A).
    """

    status: int
    code: str
    title: str
    retry: Retry = Retry.NEVER
    members: tuple[str, ...] = ()
    advice: str = ""
    sqlstate: str = "XX000"

    @property
    def type(self) -> str:
        """The problem type of RFC 9457, section 3.1.1."""
        return TYPE_PREFIX + self.code


class RequestError(Exception):
    """Root of what is wrong with an HTTP request before anyone looks at the index."""


class MalformedBody(RequestError):
    """The body is not JSON."""


class InvalidRequest(RequestError):
    """The body or a parameter has another shape; ``errors`` lists {"location", "message"}."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        self.errors = errors
        listed = "; ".join(f"{error['location']}: {error['message']}" for error in errors[:5])
        super().__init__(f"correct these and send again: {listed}")


class UnsupportedBody(RequestError):
    """The Content-Type is none this call takes."""


class BodyTooLarge(RequestError):
    """The body has more bytes than ``limit_bytes``, which ``setting`` sets."""

    def __init__(self, limit_bytes: int, setting: str) -> None:
        self.limit_bytes = limit_bytes
        super().__init__(
            f"the body may have {limit_bytes} bytes: send less at once, or raise {setting}"
        )


class NoRoute(RequestError):
    """No call has this path."""


class WrongMethod(RequestError):
    """The path exists, the method does not."""


class SearchTimeout(RequestError):
    """The search took longer than its ``timeout_ms``."""


UNEXPECTED = Kind(500, "internal", "The server failed", Retry.LATER)

#: A subclass that is not listed takes the kind of its nearest listed ancestor.
KINDS: Mapping[type[Exception], Kind] = {
    # the request itself
    MalformedBody: Kind(400, "malformed-body", "The body cannot be read", sqlstate="08P01"),
    InvalidRequest: Kind(
        422, "invalid-request", "The request is not valid", members=("errors",), sqlstate="22023"
    ),
    UnsupportedBody: Kind(
        415, "unsupported-media-type", "The body has a type this call lacks", sqlstate="08P01"
    ),
    BodyTooLarge: Kind(
        413, "body-too-large", "The body is too large", members=("limit_bytes",), sqlstate="54000"
    ),
    NoRoute: Kind(404, "no-such-route", "There is nothing at this path", sqlstate="42601"),
    WrongMethod: Kind(405, "method-not-allowed", "This path has no such method", sqlstate="42601"),
    # who asks, and how much
    auth.NoKey: Kind(401, "unauthorized", "An API key is needed", sqlstate="28000"),
    auth.KeyTooWeak: Kind(403, "forbidden", "This API key may not do that", sqlstate="42501"),
    batcher.Overloaded: Kind(
        429, "overloaded", "The server is busy", Retry.LATER, sqlstate="53000"
    ),
    SearchTimeout: Kind(
        504, "search-timeout", "The search took too long", Retry.LATER, sqlstate="57014"
    ),
    # searches
    searching.BadSearch: Kind(
        422, "invalid-search", "The search cannot be answered", sqlstate="22023"
    ),
    searching.WrongDimension: Kind(
        422,
        "wrong-dimension",
        "The vector has another dimension",
        members=("expected",),
        sqlstate="22000",
    ),
    searching.NotFinite: Kind(
        422, "not-finite", "The vector has components that are not numbers", sqlstate="22000"
    ),
    searching.UnknownRow: Kind(404, "unknown-row", "The index has no such row", sqlstate="P0002"),
    BadInput: Kind(422, "invalid-search", "The search cannot be answered", sqlstate="22023"),
    FilterError: Kind(
        422,
        "bad-filter",
        "The filter is not valid",
        members=("position", "sqlstate", "hint"),
        sqlstate="42601",
    ),
    errors.UnknownColumn: Kind(
        422,
        "unknown-column",
        "There is no such column",
        advice="GET /v1/indexes/NAME lists the mirrored columns.",
        sqlstate="42703",
    ),
    errors.StaleIndex: Kind(
        409,
        "stale-index",
        "The index has not come that far",
        Retry.LATER,
        ("applied_lsn", "wanted_lsn", "behind_bytes"),
        advice="Wait longer with timeout_ms, or search without min_lsn for what is there now.",
        sqlstate="57014",
    ),
    source.SourceNotConfigured: Kind(
        422, "no-source", "The server knows no source database", sqlstate="55000"
    ),
    source.SourceUnreachable: Kind(
        503,
        "source-unreachable",
        "The source database does not answer",
        Retry.LATER,
        sqlstate="58000",
    ),
    # indexes and their feed
    errors.BadRequest: Kind(
        400, "bad-request", "The request cannot be done as sent", sqlstate="22023"
    ),
    errors.BadBatch: Kind(
        400,
        "bad-batch",
        "The change batch is not valid",
        advice="The sidecar and the server must have the same version.",
        sqlstate="22023",
    ),
    errors.BadName: Kind(422, "bad-name", "The index name is not allowed", sqlstate="42602"),
    errors.UnknownIndex: Kind(
        404,
        "unknown-index",
        "There is no such index",
        advice="GET /v1/indexes lists those there are; vecmirror attach makes one.",
        sqlstate="42P01",
    ),
    errors.UnknownPin: Kind(404, "unknown-pin", "There is no such pin", sqlstate="42704"),
    errors.IndexExists: Kind(
        409,
        "index-exists",
        "An index of that name exists",
        advice="Choose another name, or delete it first.",
        sqlstate="42P07",
    ),
    errors.StaleEpoch: Kind(
        409,
        "stale-epoch",
        "The batch is of an older copy",
        Retry.RESYNC,
        ("epoch", "current"),
        advice="Go on with the newest epoch, or begin a new copy with a higher one.",
        sqlstate="55000",
    ),
    errors.ResyncRequired: Kind(
        409,
        "resync-required",
        "The table must be copied again",
        Retry.RESYNC,
        advice="Send a new copy of the table with the next epoch.",
        sqlstate="55000",
    ),
    errors.PinConflict: Kind(
        409, "pin-conflict", "The pin cannot be had as asked", Retry.LATER, sqlstate="55006"
    ),
    # the state of the server
    errors.NotReady: Kind(
        503,
        "not-ready",
        "The index cannot answer yet",
        Retry.LATER,
        advice="Try again when GET /readyz says yes.",
        sqlstate="57P03",
    ),
    errors.MirrorFailed: Kind(
        503,
        "index-failed",
        "The index has failed",
        advice="Delete the index and attach it anew; the rows are safe in Postgres.",
        sqlstate="58000",
    ),
    errors.StorageFull: Kind(
        507,
        "storage-full",
        "The server's disk is full",
        Retry.LATER,
        advice="Free space under server.data_dir; nothing that was acknowledged is lost.",
        sqlstate="53100",
    ),
    errors.StorageError: Kind(
        500, "storage", "The server's disk refused", Retry.LATER, sqlstate="58030"
    ),
    DeviceLost: Kind(
        503,
        "device-lost",
        "The server's card is lost",
        Retry.LATER,
        advice="The server ends and is started anew by whoever supervises it.",
    ),
    BackendError: Kind(
        503,
        "device-failed",
        "The server's card could not do this",
        Retry.LATER,
        advice="Try again; the server's log tells more.",
    ),
    IndexFull: Kind(
        507,
        "index-full",
        "The index cannot hold more rows",
        advice="Delete rows or give the server more memory.",
        sqlstate="54000",
    ),
}


def kind_of(error: BaseException) -> Kind:
    """Return the kind of the exception's nearest listed ancestor; UNEXPECTED when none is."""
    for ancestor in type(error).__mro__:
        if ancestor in KINDS:
            return KINDS[ancestor]
    return UNEXPECTED


def problem(error: BaseException, request_id: str) -> dict[str, Any]:
    """Return the problem document for an exception."""
    kind = kind_of(error)
    document: dict[str, Any] = {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": _detail(error, kind, request_id),
        "code": kind.code,
        "retry": kind.retry.value,
        "request_id": request_id,
    }
    return document | {name: _member(error, name) for name in kind.members}


def headers(error: BaseException) -> dict[str, str]:
    """Return the headers that belong to an error's answer."""
    kind = kind_of(error)
    if kind.status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, batcher.Overloaded):
        return {"Retry-After": str(error.retry_after_s)}
    return {"Retry-After": "1"} if kind.status == 503 and kind.retry is Retry.LATER else {}


def _detail(error: BaseException, kind: Kind, request_id: str) -> str:
    if kind is UNEXPECTED:
        return f"This is a fault of the server; its log tells the cause under {request_id}."
    text = (str(error) or kind.title).rstrip(".")
    return " ".join(filter(None, (f"{text[:1].upper()}{text[1:]}.", kind.advice)))


def _member(error: BaseException, name: str) -> Any:
    """Return one further member; positions in the log become Postgres' text form."""
    if isinstance(error, errors.StaleIndex):
        return {
            "applied_lsn": format_lsn(error.applied_lsn),
            "wanted_lsn": format_lsn(error.wanted),
            "behind_bytes": error.wanted - error.applied_lsn,
        }[name]
    return getattr(error, name)
