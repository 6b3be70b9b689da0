"""Which engine the server takes, and how it ends when its card is lost."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import structlog
from pydantic import ValidationError

from gpu import BackendError, DeviceLost, Index, NumpyBackend, open_backend, train
from gpu.cuda.nvml import CardHealth, read_card
from gpu.cuda_backend import CudaBackend
from server.device import DEVICE_LOST, DeviceWatch, NoDevice, open_device
from server.device_care import SENTENCES, DeviceCollector
from server.mirror import MirrorOptions
from server.sections import ServerSection
from server.snapshot import read_index
from tests.change_batches import make_spec
from tests.cuda.emulator import EmulatedDevice, why_not
from tests.fix_mirrors import Feeder

needs_emulator = pytest.mark.skipif(bool(why_not()), reason=str(why_not()))
no_cupy = pytest.mark.skipif(
    open_backend().name == "cuda", reason="this machine has a card; the fallback cannot be seen"
)


@no_cupy
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_without_a_card_the_cpu_takes_over_with_one_warning(device: str) -> None:
    with structlog.testing.capture_logs() as lines:
        backend = open_device(ServerSection(device=device))
    assert backend.name == "cpu"
    (line,) = lines
    assert (line["log_level"], line["event"]) == (
        "warning",
        "no card can be used; searching on the CPU",
    )
    assert "CuPy is not installed" in line["reason"] or "driver" in line["reason"]


@no_cupy
def test_auto_and_cpu_take_the_cpu_without_a_word() -> None:
    with structlog.testing.capture_logs() as lines:
        assert open_device(ServerSection()).name == "cpu"
        assert open_device(ServerSection(device="cpu")).name == "cpu"
    assert lines == []


@no_cupy
def test_a_required_card_that_is_not_there_is_refused() -> None:
    with pytest.raises(NoDevice, match=r"server\.device is cuda and required"):
        open_device(ServerSection(device="cuda", device_required=True))
    with pytest.raises(NoDevice):
        open_device(ServerSection(device="auto", device_required=True))


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU"])
def test_another_word_is_no_device(device: str) -> None:
    with pytest.raises(ValidationError):
        ServerSection(device=device)
    with pytest.raises(BackendError, match="there is no backend called"):
        open_backend(device)


@needs_emulator
def test_a_lost_card_stops_the_server_once_and_gives_up_on_one_that_hangs() -> None:
    backend, calls = CudaBackend(EmulatedDevice()), []
    watch = DeviceWatch(backend, 0.05, lambda: calls.append("stop"), lambda: calls.append("exit"))
    for _ in range(2):
        backend.when_lost("an illegal address")
    assert calls == ["stop"]
    assert watch.reason == "an illegal address"
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(1)
    assert calls == ["stop", "exit"]
    assert DEVICE_LOST == 75


@needs_emulator
def test_rows_survive_a_lost_card_in_the_journal(tmp_path: Path) -> None:
    backend = CudaBackend(EmulatedDevice())
    feeder = Feeder(tmp_path, backend=backend)
    feeder.copy({key: [key, 0.0, 1.0] for key in range(20)})
    feeder.mirror.snapshot()
    feeder.change(200, feeder.upsert(99, [9.0, 9.0, 9.0]))
    before = feeder.vectors()
    backend.device.failures.lose("an illegal address")  # type: ignore[attr-defined]
    with pytest.raises(DeviceLost):
        feeder.mirror.state.index.search(np.ones((1, 3), np.float32), 1)
    feeder.options = MirrorOptions(background=False, backend=open_backend("cpu"))
    feeder.reopen()
    assert feeder.vectors() == before
    feeder.mirror.close()


@needs_emulator
def test_figures_of_the_card_are_shown_and_missing_ones_left_out() -> None:
    backend = CudaBackend(EmulatedDevice())
    health = CardHealth(3 << 30, 16 << 30, 0.5, 61, None, frozenset({"power_cap"}))
    families = {f.name: f for f in DeviceCollector(backend, lambda _: health).collect()}
    assert set(families) == set(SENTENCES) - {"vecmirror_device_uncorrected_ecc_errors"}
    throttled = {
        s.labels["reason"]: s.value for s in families["vecmirror_device_throttled"].samples
    }
    assert throttled["power_cap"] == 1
    assert throttled["hardware_thermal"] == 0
    memory = {s.labels["state"]: s.value for s in families["vecmirror_device_memory_bytes"].samples}
    assert memory["used"] == 3 << 30
    assert 0 < memory["free_for_us"] <= 8 << 30
    assert list(DeviceCollector(open_backend("cpu")).collect()) == []


def test_nvml_is_asked_by_the_place_of_the_card_and_may_not_know() -> None:
    nvml = _Nvml()
    health = read_card("0000:65:00.0", nvml)  # type: ignore[arg-type]
    wanted = CardHealth(1, 4, 0.07, None, 2, frozenset({"software_thermal", "power_cap"}))
    assert health == wanted
    assert read_card("0000:66:00.0", nvml) is None  # type: ignore[arg-type]


class _Nvml:
    """NVML's functions for one card that has no thermometer."""

    NVMLError = type("NVMLError", (Exception,), {})
    NVML_TEMPERATURE_GPU, NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 0, 1, 0

    def nvmlDeviceGetHandleByPciBusId(self, place: bytes) -> str:  # noqa: N802
        if place != b"0000:65:00.0":
            raise self.NVMLError
        return "card"

    def nvmlDeviceGetMemoryInfo(self, card: str) -> Any:  # noqa: N802
        return SimpleNamespace(used=1, total=4)

    def nvmlDeviceGetUtilizationRates(self, card: str) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=7)

    def nvmlDeviceGetTemperature(self, card: str, sensor: int) -> int:  # noqa: N802
        raise self.NVMLError

    def nvmlDeviceGetTotalEccErrors(self, card: str, kind: int, since: int) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, card: str) -> int:  # noqa: N802
        return 0x1 | 0x4 | 0x20


@needs_emulator
def test_an_index_that_does_not_fit_is_searched_on_the_cpu(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    index = Index(make_spec(columns=()).index_params(), NumpyBackend())
    index.add(rng.normal(size=(300, 3)).astype(np.float32))
    index.adopt(train(index.publish()))
    index.state.save(tmp_path / "index.vm")
    small = CudaBackend(EmulatedDevice(total_bytes=8 << 10))
    with structlog.testing.capture_logs() as lines:
        read = read_index(tmp_path / "index.vm", make_spec(columns=()), small)
    assert read.state.backend.name == "cpu"
    assert [line["event"] for line in lines] == ["no room on the card; searched on the CPU"]
