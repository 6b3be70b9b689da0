"""The statements that ``benchmarks.sql`` times: one search, asked in each way that SQL has.

``{v}`` stands for the query vector. ``labels`` is a table beside the searched one that the index
does not know: a condition on it can only be applied in a join.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gpu import Metric

from .searched import BUCKETS, HITS, OPERATORS, TABLE

LABELS = "labels"
#: Keeps one row in a hundred.
BELOW = BUCKETS // 100
SEARCHES = ("unfiltered", "1 % filter", "join filter")

_GENERIC = {"plan_cache_mode": "force_generic_plan"}
_PLANNED = {"plan_cache_mode": "force_custom_plan"}


@dataclass(frozen=True, slots=True)
class Form:
    """One way to ask for one of SEARCHES; ``settings`` are parameters of the session."""

    search: str
    who: str
    query: str
    settings: dict[str, str] = field(default_factory=dict)


def forms() -> list[Form]:
    """Return every form through the SQL port."""
    planned = (
        f"SELECT id, distance FROM vecmirror.{TABLE} WHERE query = {{v}}{{more}}"
        f" ORDER BY distance LIMIT {HITS}"
    )
    light = f"SELECT id, distance FROM vecmirror.{TABLE}_light WHERE query = {{v}} AND k = {HITS}"
    light_join = (
        f"SELECT i.id, i.bucket, s.distance FROM vecmirror.{TABLE}_light s"
        f" JOIN {TABLE} i USING (id) WHERE s.query = {{v}} AND s.k = {HITS}{{more}}"
        " ORDER BY s.distance"
    )
    function = f"SELECT id, distance FROM vecmirror.{TABLE}_search({{v}}, {HITS}{{more}})"
    made = []
    for search, condition, text in (
        (SEARCHES[0], "", ""),
        (SEARCHES[1], f" AND bucket < {BELOW}", f"bucket < {BELOW}"),
    ):
        as_text = f" AND filter = '{text}'" if text else ""
        asked = planned.replace("{more}", condition)
        made += [
            Form(search, "dblink", function.replace("{more}", f", '{text}'" if text else "")),
            Form(search, "fdw generic plan", asked, _GENERIC),
            Form(search, "fdw planned", asked, _PLANNED),
            Form(search, "fdw light", light + as_text, _PLANNED),
            Form(search, "fdw light + join", light_join.replace("{more}", as_text), _PLANNED),
        ]
    join = (
        f"SELECT s.id, s.distance FROM vecmirror.{TABLE} s JOIN {LABELS} l USING (id)"
        f" WHERE s.query = {{v}} AND l.label < {BELOW} ORDER BY s.distance LIMIT {HITS}"
    )
    ids = (
        f"SELECT id, distance FROM vecmirror.{TABLE} WHERE query = {{v}} AND id = ANY"
        f" (ARRAY(SELECT id FROM {LABELS} WHERE label < {BELOW})) ORDER BY distance LIMIT {HITS}"
    )
    return [
        *made,
        Form(SEARCHES[2], "fdw join", join, _GENERIC),
        Form(SEARCHES[2], "fdw id set", ids, _GENERIC),
    ]


def pgvector_form(search: str, metric: Metric) -> Form:
    """Return the same search by pgvector's HNSW, whose iterative scan serves the filters."""
    joined = f" JOIN {LABELS} l USING (id)" if search == SEARCHES[2] else ""
    where = {
        SEARCHES[0]: "",
        SEARCHES[1]: f" WHERE s.bucket < {BELOW}",
        SEARCHES[2]: f" WHERE l.label < {BELOW}",
    }[search]
    distance = f"s.embedding {OPERATORS[metric]} {{v}}"
    query = (
        f"SELECT s.id, {distance} AS distance FROM {TABLE} s{joined}{where}"
        f" ORDER BY {distance} LIMIT {HITS}"
    )
    return Form(search, "pgvector", query)
