"""The plan of an index's memory holds what the index then takes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from gpu import BackendError, Index, IndexParams
from gpu.cuda.context import measured_context_bytes
from gpu.cuda.nvml import memory_used
from gpu.cuda.planning import CARDS, CONTEXT_BYTES, plan_memory
from gpu.params import default_nlist
from server.cli import main
from tests.cuda.backend.conftest import DIM, N_ROWS, NLIST, MakeCuda, MakeFile, rows_and_queries


def test_a_plan_is_an_upper_bound_close_to_what_is_taken(
    make_cuda: MakeCuda, make_file: MakeFile
) -> None:
    backend = make_cuda(total_bytes=1 << 30)
    index = Index.load(make_file(), backend)
    index.state.search(rows_and_queries(1)[1], 3)
    trained = index.state.trained_part
    assert trained is not None
    slab = trained.lists.prepared.slab  # type: ignore[attr-defined]
    params = IndexParams(dim=DIM, metric="l2", m=6, nlist=NLIST)
    plan = plan_memory(params, N_ROWS)
    taken = (slab.pages - slab.free_pages) * slab.page_bytes
    assert 0.4 * plan.device["lists"] <= taken <= 1.6 * plan.device["lists"]
    assert plan.device["raw_vectors"] == N_ROWS * 4 * DIM
    assert plan.host["raw_vectors"] == N_ROWS * index.state.rows.row_bytes
    assert plan.peak_bytes > plan.device_bytes > CONTEXT_BYTES


def test_raw_rows_that_stay_on_the_host_take_nothing_on_the_card() -> None:
    params = IndexParams(dim=1536, metric="cosine", raw_dtype="float16")
    device, pinned = plan_memory(params, 10_000_000), plan_memory(params, 10_000_000, "pinned")
    assert device.device_bytes - pinned.device_bytes == 10_000_000 * 1536 * 2
    assert device.host == pinned.host


def test_the_context_is_what_one_says() -> None:
    params = IndexParams(dim=128, metric="l2")
    known, small = plan_memory(params, 1000), plan_memory(params, 1000, context_bytes=7 << 20)
    assert known.device_bytes - small.device_bytes == CONTEXT_BYTES - (7 << 20)


def test_a_context_is_what_a_card_uses_beyond_our_own_memory() -> None:
    readings = iter(({"0000:65:00.0": 100, "0000:66:00.0": 5}, {"0000:65:00.0": 1000}))
    card = SimpleNamespace(pci_bus_id="00000000:65:00.0", held_bytes=300)
    assert measured_context_bytes(lambda: card, lambda: next(readings)) == 600


@pytest.mark.parametrize("after", [{}, {"0000:65:00.0": 400}], ids=["unknown", "not grown"])
def test_a_context_that_cannot_be_measured_is_refused(after: dict[str, int]) -> None:
    readings = iter(({"0000:65:00.0": 100}, after))
    card = SimpleNamespace(pci_bus_id="0000:65:00.0", held_bytes=300)
    with pytest.raises(BackendError):
        measured_context_bytes(lambda: card, lambda: next(readings))


def test_more_rows_never_fit_a_smaller_card() -> None:
    params = IndexParams(dim=768, metric="l2")
    sizes = [len(plan_memory(params, 10**power).fitting_cards()) for power in range(3, 10)]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (len(CARDS), 0)


def test_the_command_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--rows", "1000000", "--dims", "768", "--raw", "none", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["device_total_bytes"] == sum(printed["device_bytes"].values())
    assert printed["cards"][0] == "T4"
    assert printed["params"]["nlist"] == default_nlist(1_000_000)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--raw", "disk"],
        ["--metric", "dot"],
        ["--code-bits", "5"],
        ["--dims", "20000"],
        ["--context-mib", "1", "--measure-context"],
    ],
)
def test_wrong_numbers_are_explained(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--rows", "10", "--dims", "8", *wrong])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_plan_for_people_names_the_cards(capsys: pytest.CaptureFixture[str]) -> None:
    for rows, says in (("1000", "fits: T4 (16 GB)"), ("10000000000", "fits no single card")):
        with pytest.raises(SystemExit):
            main(["plan", "--rows", rows, "--dims", "768"])
        assert says in capsys.readouterr().out


def test_nvml_is_asked_for_each_card() -> None:
    used = memory_used(_Nvml())  # type: ignore[arg-type]
    assert used == {"0000:65:00.0": 100}


class _Nvml:
    """NVML's functions for two cards, one of which does not tell."""

    NVMLError = type("NVMLError", (Exception,), {})

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:  # noqa: N802
        return number

    def nvmlDeviceGetPciInfo(self, card: int) -> Any:  # noqa: N802
        return SimpleNamespace(busId=f"00000000:6{5 + card}:00.0")

    def nvmlDeviceGetMemoryInfo(self, card: int) -> Any:  # noqa: N802
        if card:
            raise self.NVMLError
        return SimpleNamespace(used=100)
