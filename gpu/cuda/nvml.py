"""How the card is, as the driver's NVML tells it. Nothing here touches CUDA.

Figures that a card or its virtualisation does not give are None; no card or driver gives nothing.
Source: NVML API Reference, "Device Queries"; throttle reasons: "Clock Event Reasons".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

#: Bits of nvmlDeviceGetCurrentClocksEventReasons that mean the card is held back.
THROTTLE_REASONS = {
    "power_cap": 0x4,
    "hardware_slowdown": 0x8,
    "software_thermal": 0x20,
    "hardware_thermal": 0x40,
    "power_brake": 0x80,
}


class CardHealth(NamedTuple):
    """One reading. Bytes, a share from 0 to 1, degrees Celsius, errors since the driver's start."""

    memory_used_bytes: int | None
    memory_total_bytes: int | None
    utilization: float | None
    temperature_c: int | None
    uncorrected_ecc_errors: int | None
    throttled: frozenset[str] | None


@cache
def _library() -> ModuleType | None:
    """Load and start NVML once; None where there is no driver."""
    import pynvml  # noqa: PLC0415 (loads the driver's library)

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml  # type: ignore[no-any-return]  # pynvml has no types


def count_cards(library: ModuleType | None = None) -> int:
    """Return how many cards the driver has; 0 without a driver."""
    nvml = library or _library()
    if nvml is None:
        return 0
    return _asked(nvml, lambda: int(nvml.nvmlDeviceGetCount())) or 0


def memory_used(library: ModuleType | None = None) -> dict[str, int]:
    """Return the bytes in use on each card by its place (``0000:65:00.0``); empty: no driver."""
    nvml = library or _library()
    if nvml is None:
        return {}
    used = (_place_and_used(nvml, number) for number in range(count_cards(nvml)))
    return dict(pair for pair in used if pair is not None)


def _place_and_used(nvml: Any, number: int) -> tuple[str, int] | None:
    try:
        card = nvml.nvmlDeviceGetHandleByIndex(number)
        place = short_place(nvml.nvmlDeviceGetPciInfo(card).busId)
        return place, int(nvml.nvmlDeviceGetMemoryInfo(card).used)
    except nvml.NVMLError:
        return None


def short_place(place: str | bytes) -> str:
    """Return a PCI address as CUDA writes it: NVML's has eight digits of the domain."""
    text = place.decode() if isinstance(place, bytes) else place
    return text.strip("\0").lower()[-len("0000:65:00.0") :]


def read_card(pci_bus_id: str, library: ModuleType | None = None) -> CardHealth | None:
    """Return the state of the card at ``0000:65:00.0``; None where NVML does not know it."""
    nvml = library or _library()
    if nvml is None:
        return None
    card = _asked(nvml, lambda: nvml.nvmlDeviceGetHandleByPciBusId(pci_bus_id.encode()))
    if card is None:
        return None
    memory = _asked(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(card))
    percent = _asked(nvml, lambda: int(nvml.nvmlDeviceGetUtilizationRates(card).gpu))
    return CardHealth(
        memory_used_bytes=None if memory is None else int(memory.used),
        memory_total_bytes=None if memory is None else int(memory.total),
        utilization=None if percent is None else percent / 100,
        temperature_c=_asked(
            nvml, lambda: int(nvml.nvmlDeviceGetTemperature(card, nvml.NVML_TEMPERATURE_GPU))
        ),
        uncorrected_ecc_errors=_asked(nvml, lambda: _ecc_errors(nvml, card)),
        throttled=_asked(nvml, lambda: _throttled(nvml, card)),
    )


def _ecc_errors(nvml: Any, card: Any) -> int:
    kind, since = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
    return int(nvml.nvmlDeviceGetTotalEccErrors(card, kind, since))


def _throttled(nvml: Any, card: Any) -> frozenset[str]:
    bits = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(card))
    return frozenset(name for name, bit in THROTTLE_REASONS.items() if bits & bit)


def _asked(nvml: Any, question: Callable[[], Any]) -> Any:
    """Return the answer, None where the card has none."""
    try:
        return question()
    except nvml.NVMLError:
        return None
