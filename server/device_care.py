"""Figures of the card in /metrics, read when Prometheus asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gpu import Backend
from gpu.cuda.nvml import THROTTLE_REASONS, CardHealth, read_card
from gpu.cuda_backend import CudaBackend
from gpu.errors import BackendError

from .device_filters import TALLY

MEMORY = "vecmirror_device_memory_bytes"
UTILIZATION = "vecmirror_device_utilization_ratio"
TEMPERATURE = "vecmirror_device_temperature_celsius"
ECC_ERRORS = "vecmirror_device_uncorrected_ecc_errors"
THROTTLED = "vecmirror_device_throttled"
LOST = "vecmirror_device_lost"
RAW_REFUSED = "vecmirror_device_raw_rows_refused"
COLUMNS_REFUSED = "vecmirror_device_filter_columns_refused"
FILTERS = "vecmirror_device_filters"

SENTENCES: Mapping[str, str] = {
    MEMORY: "Memory of the card: total and used by anyone (driver); free for this server.",
    UTILIZATION: "Share of the last sample period in which a kernel ran.",
    TEMPERATURE: "Temperature of the card.",
    ECC_ERRORS: "Uncorrected memory errors since the driver was loaded.",
    THROTTLED: "1 while the card is slowed down for the reason.",
    LOST: "1 after an error that only a new process can mend.",
    RAW_REFUSED: "Indexes whose raw vectors did not fit on the card; the CPU re-ranks them.",
    COLUMNS_REFUSED: "Indexes whose filter columns did not fit on the card; the CPU filters them.",
    FILTERS: "Filters evaluated since the start, on the card and on the CPU instead of it.",
}


class DeviceCollector(Collector):
    """The figures of one backend's card; none for a backend without a card."""

    def __init__(
        self, backend: Backend, read: Callable[[str], CardHealth | None] = read_card
    ) -> None:
        self._backend, self._read = backend, read

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what is collected depends on the card."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield one family for each figure that the card gives."""
        backend = self._backend
        if not isinstance(backend, CudaBackend):
            return
        yield _single(LOST, float(backend.lost is not None))
        yield _single(RAW_REFUSED, float(backend.raw_rows_refused))
        yield _single(COLUMNS_REFUSED, float(backend.columns_refused))
        yield _filters()
        health = self._read(backend.pci_bus_id)
        yield _memory(backend, health)
        if health is None:
            return
        yield from (
            _single(name, value)
            for name, value in (
                (UTILIZATION, health.utilization),
                (TEMPERATURE, health.temperature_c),
                (ECC_ERRORS, health.uncorrected_ecc_errors),
            )
            if value is not None
        )
        if health.throttled is not None:
            yield _throttled(health.throttled)


def _memory(backend: CudaBackend, health: CardHealth | None) -> Metric:
    family = GaugeMetricFamily(MEMORY, SENTENCES[MEMORY], labels=("state",))
    if health is not None and health.memory_total_bytes is not None:
        family.add_metric(("total",), health.memory_total_bytes)
    if health is not None and health.memory_used_bytes is not None:
        family.add_metric(("used",), health.memory_used_bytes)
    with suppress(BackendError):  # a lost card has no answer
        family.add_metric(("free_for_us",), backend.device.memory().free_bytes)
    return family


def _filters() -> Metric:
    family = GaugeMetricFamily(FILTERS, SENTENCES[FILTERS], labels=("where",))
    family.add_metric(("card",), TALLY.device)
    family.add_metric(("cpu",), TALLY.host)
    return family


def _throttled(reasons: frozenset[str]) -> Metric:
    family = GaugeMetricFamily(THROTTLED, SENTENCES[THROTTLED], labels=("reason",))
    for reason in THROTTLE_REASONS:
        family.add_metric((reason,), float(reason in reasons))
    return family


def _single(name: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, SENTENCES[name])
    family.add_metric((), float(value))
    return family
