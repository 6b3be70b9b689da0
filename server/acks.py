"""Ack: what a change batch is answered with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ack:
    """How far the index is. Only ``durable_lsn`` may be confirmed to Postgres.

    ``epoch`` is the newest copy begun.
    """

    durable_lsn: int
    applied_lsn: int
    epoch: int
