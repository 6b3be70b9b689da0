"""The plan of an index's memory holds what the index then takes."""

from __future__ import annotations

import json

import pytest

from gpu import Index, IndexParams
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
    "wrong", [["--raw", "disk"], ["--metric", "dot"], ["--code-bits", "5"], ["--dims", "20000"]]
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
