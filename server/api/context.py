"""What every route works with: settings, keys, the catalog and the machinery around it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastapi import Request

from server.auth import Keyring
from server.batcher import Batcher, Overloaded
from server.catalog import CatalogLike
from server.device_care import DeviceCollector
from server.errors import StaleIndex
from server.freshness import FeedWatch
from server.metrics import SEARCHES_QUEUED, SEARCHES_WAITING, IndexFigures, Metrics
from server.mirror import MirrorLike
from server.settings import Settings
from server.source import SourceClock
from server.state import MirrorState

from .answers import SearchJob, run_searches

Result = TypeVar("Result")


class Context:
    """One server. Made before the first request, closed after the last."""

    def __init__(self, settings: Settings, catalog: CatalogLike) -> None:
        server, dsn = settings.server, settings.source.dsn
        self.settings, self.catalog = settings, catalog
        self.keyring = Keyring.from_settings(settings)
        self.metrics, self.feeds = Metrics(), FeedWatch()
        #: Requests that were answered as asked are logged at this level only.
        self.log_requests = server.log_level == "debug"
        self.source = SourceClock(
            dsn.get_secret_value() if dsn else None, settings.source.connect_timeout_s
        )
        self.searchers = ThreadPoolExecutor(server.search_threads, "search")
        self.writers = ThreadPoolExecutor(server.changes_threads, "changes")
        self.batcher = Batcher[SearchJob, bytes](
            run_searches,
            self.searchers,
            max_rows=server.max_batch_queries,
            max_queued=server.max_queued_searches,
            on_batch=self.metrics.batch_queries.observe,
        )
        self.load_failed, self.warm = False, False
        self._waiting = 0
        self.metrics.watch(SEARCHES_QUEUED, lambda: self.batcher.queued)
        self.metrics.watch(SEARCHES_WAITING, lambda: self._waiting)
        self.metrics.watch_indexes(self.figures)
        if catalog.backend is not None:
            self.metrics.registry.register(DeviceCollector(catalog.backend))

    def lag_ms(self, name: str, applied_lsn: int) -> float | None:
        """Return the milliseconds since the index had everything; None before it first did."""
        fresh = self.feeds.of(name, applied_lsn)
        return None if fresh is None or fresh.lag_s is None else round(fresh.lag_s * 1000, 1)

    def figures(self) -> list[IndexFigures]:
        """Return what /metrics shows of each index."""
        return [self._figures(mirror) for mirror in self.catalog.mirrors()]

    async def wait_applied(self, mirror: MirrorLike, lsn: int, timeout_s: float) -> None:
        """Wait until ``lsn`` is applied, without a thread; raise StaleIndex or Overloaded."""
        if mirror.state.applied_lsn >= lsn:
            return
        if self._waiting >= self.settings.server.max_waiting_searches:
            raise Overloaded("too many searches wait for the index to catch up; try again soon")
        loop, applied = asyncio.get_running_loop(), asyncio.Event()

        def wake(_: MirrorState) -> None:
            loop.call_soon_threadsafe(applied.set)

        token = mirror.add_waiter(lsn, wake)
        self._waiting += 1
        try:
            await asyncio.wait_for(applied.wait(), timeout_s)
        except TimeoutError:
            raise StaleIndex(mirror.state.applied_lsn, lsn) from None
        finally:
            self._waiting -= 1
            mirror.remove_waiter(token)

    async def source_lsn(self) -> int:
        """Return how far the source has flushed its log; raise as ``SourceClock.flush_lsn``."""
        return await asyncio.to_thread(self.source.flush_lsn)

    def close(self) -> None:
        """Wait for running work, then close the source connection. Blocking."""
        self.searchers.shutdown()
        self.writers.shutdown()
        self.source.close()

    def _figures(self, mirror: MirrorLike) -> IndexFigures:
        name = mirror.spec.name
        if mirror.failed is not None:
            return IndexFigures(name, "failed", {}, {}, 0, None)
        state = mirror.state
        index = state.index
        rows = {
            "live": index.live_rows,
            "dead": index.dead_rows,
            "encoded": index.encoded_rows,
            "dead_in_lists": index.dead_encoded_rows,
        }
        fresh = self.feeds.of(name, state.applied_lsn)
        return IndexFigures(name, state.phase, rows, index.drift(), state.applied_lsn, fresh)


async def in_writer_thread(server: Context, call: Callable[[], Result]) -> Result:
    """Run ``call``, which may block on disk or locks, in a thread that applies changes."""
    return await asyncio.get_running_loop().run_in_executor(server.writers, call)


def context_of(request: Request) -> Context:
    """Return the server's context: a FastAPI dependency."""
    context: Context = request.app.state.context
    return context
