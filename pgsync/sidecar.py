"""The sidecar process: one worker for each index of the server that has a source.

``run`` asks the server every two seconds which indexes there are, starts a worker for each one
with a slot and a publication, and retires the workers of indexes that are gone.

Invariants:

- An index attached to a database of another name is left alone: it has its own sidecar.
- A slot is dropped only when the server says that it has no index of that name, never because a
  list lacks it: a server lists what it has loaded so far.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from .connections import connect, current_database
from .errors import SinkError, SourceError
from .sink import IndexDescription, Sink
from .worker import IndexWorker, WorkerConfig

#: How often the server is asked for its indexes.
POLL_INTERVAL_S = 2.0

#: Workers get this long to confirm what is durable and leave the stream in order.
STOP_TIMEOUT_S = 10.0

OnEvent = Callable[[str, Mapping[str, object]], None]

_log = structlog.get_logger("vecmirror.sync")

#: Events that an operator should see without asking for them.
_WARNINGS = frozenset(
    {"retrying", "copy_waiting", "slot_not_dropped", "server_away", "source_away"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarConfig:
    """Configuration of ``run``.

    ``dsn`` names the source database, ``server`` the index server (``http://host:port`` or
    ``http+unix:///path``; or ``server_uds``, the path of its socket). ``only`` restricts the
    sidecar to some indexes. ``on_event`` is called from several threads, with the event's name and
    fields: index, and what belongs to it. Secrets are left out of ``repr``.
    """

    dsn: str = field(repr=False)
    server: str
    api_key: str | None = field(default=None, repr=False)
    server_uds: str | None = None
    copy_workers: int = 2
    failover_slots: bool = False
    only: frozenset[str] | None = None
    poll_interval_s: float = POLL_INTERVAL_S
    on_event: OnEvent | None = None


def run(config: SidecarConfig, stop: threading.Event) -> None:
    """Mirror all indexes of the server that have a source, until ``stop`` is set.

    Trouble with the source or the server is waited out, never raised.
    """
    sidecar = _Sidecar(config)
    try:
        while not stop.is_set():
            sidecar.poll()
            stop.wait(config.poll_interval_s)
    finally:
        sidecar.close()


class _Sidecar:
    """The workers by index name."""

    def __init__(self, config: SidecarConfig) -> None:
        self._config = config
        self._sink = Sink(config.server, config.api_key, uds=config.server_uds)
        self._workers: dict[str, IndexWorker] = {}
        self._away = False
        self._source_away = False
        self._database: str | None = None
        self._foreign: set[str] = set()

    def poll(self) -> None:
        """Compare the server's indexes with the workers."""
        try:
            listed = self._sink.indexes()
        except SinkError as error:
            if not self._away:
                self._emit("server_away", {"reason": str(error)})
            self._away = True
            return
        self._away = False
        if any(index.database is not None for index in listed) and not self._knows_database():
            return
        self._tell_foreign(listed)
        wanted = {index.name: index for index in listed if self._is_ours(index)}
        for name, worker in list(self._workers.items()):
            if self._is_over(worker.index, wanted.get(name)):
                worker.retire()
            if not worker.alive:
                # Also a retired one whose index was attached anew since: it needs a new worker.
                del self._workers[name]
        for name, index in wanted.items():
            if name not in self._workers:
                self._start(index)

    def close(self) -> None:
        """Stop all workers, then wait for them."""
        for worker in self._workers.values():
            worker.stop()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for name, worker in self._workers.items():
            if not worker.join(max(0.0, deadline - time.monotonic())):
                self._emit("worker_stuck", {"index": name})
        self._sink.close()

    def _is_over(self, index: IndexDescription, listed: IndexDescription | None) -> bool:
        """Tell whether an index is gone or another one; its slot is of no use then.

        A server that is loading lists what it has so far: only its word that it has no such index
        counts, for a dropped slot costs a copy of the table.
        """
        try:
            found = listed or self._sink.describe(index.name)
        except SinkError:
            return False
        return found is None or not _same_feed(index, found)

    def _is_ours(self, index: IndexDescription) -> bool:
        only = self._config.only
        fed = index.slot is not None and index.publication is not None
        chosen = only is None or index.name in only
        return fed and chosen and index.database in {None, self._database}

    def _knows_database(self) -> bool:
        """Ask the source for its name, once; False while it does not answer."""
        if self._database is None:
            try:
                with contextlib.closing(connect(self._config.dsn)) as conn:
                    self._database = current_database(conn)
            except SourceError as error:
                if not self._source_away:
                    self._emit("source_away", {"reason": str(error)})
                self._source_away = True
        return self._database is not None

    def _tell_foreign(self, listed: list[IndexDescription]) -> None:
        """Say once of each index of another database that it is left alone."""
        foreign = {i.name: i.database for i in listed if i.database not in {None, self._database}}
        for name in foreign.keys() - self._foreign:
            self._emit("other_database", {"index": name, "database": foreign[name]})
        self._foreign = set(foreign)

    def _start(self, index: IndexDescription) -> None:
        config = self._config
        worker = IndexWorker(
            WorkerConfig(
                dsn=config.dsn,
                server=config.server,
                api_key=config.api_key,
                server_uds=config.server_uds,
                copy_workers=config.copy_workers,
                failover_slots=config.failover_slots,
            ),
            index,
            self._emit,
        )
        self._workers[index.name] = worker
        worker.start()

    def _emit(self, event: str, fields: Mapping[str, object]) -> None:
        log = _log.warning if event in _WARNINGS else _log.info
        log(event, **fields)
        if self._config.on_event is not None:
            self._config.on_event(event, fields)


def _same_feed(one: IndexDescription, other: IndexDescription) -> bool:
    """Whether a worker for ``one`` can go on for ``other``."""
    return (one.slot, one.publication, one.table) == (other.slot, other.publication, other.table)
