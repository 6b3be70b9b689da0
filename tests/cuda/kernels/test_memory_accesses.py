"""Every kernel under the checker (bounds, races, initialisation), and what its accesses cost."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda.emulator import EmulatedDevice
from tests.cuda.kernels import test_append, test_coarse, test_encode, test_exact, test_scan_tiles
from tests.cuda.kernels.cards import Card
from tests.cuda.kernels.codecs import Sizes, all_allowed, made_codec, made_contents
from tests.cuda.kernels.searches import Search, check, queries


@pytest.fixture
def watched(checked: EmulatedDevice) -> Card:
    """Return a card that watches every access."""
    return Card(checked)


def scanned(card: Card, rng: np.random.Generator, sizes: Sizes) -> Search:
    """Scan whole groups of lists; the traffic of what came before is forgotten."""
    codec = made_codec(rng, sizes)
    contents = made_contents(rng, codec, [320, 640, 0, 128, 512])
    search = Search(card, codec, contents, (1, 5, 20), 2)
    search.begin(queries(rng, codec, 1))
    card.queue.stream.synchronize()
    device = card.device
    assert isinstance(device, EmulatedDevice)
    device.traffic()
    search.scan(all_allowed(len(contents)))
    return search


def test_four_bit_look_ups_meet_no_bank_twice_and_codes_come_fully_coalesced(
    watched: Card, checked: EmulatedDevice, rng: np.random.Generator
) -> None:
    scanned(watched, rng, Sizes(m=64, width=1, dim=64))
    traffic = checked.traffic()
    assert traffic.conflict_factor("table-entry") == 1.0
    assert traffic.sectors_over_ideal("codes") == 1.0
    assert traffic.sectors_per_request("codes") == 16.0  # 512 bytes of a warp
    assert traffic.sectors_over_ideal("factors") == 1.0
    rows = 320 + 640 + 128 + 512
    assert traffic.nbytes("codes") <= rows * 32  # no code twice, and nothing else


def test_eight_bit_look_ups_conflict_no_more_than_random_banks_do(
    watched: Card, checked: EmulatedDevice, rng: np.random.Generator
) -> None:
    scanned(watched, rng, Sizes(m=16, width=1, dim=16, bits=8))
    traffic = checked.traffic()
    # 32 random halves over 32 banks: 2.8 wavefronts on average.
    assert traffic.wavefronts_per_request("half-table-entry") < 3.1
    assert traffic.sectors_over_ideal("codes") == 1.0


@pytest.mark.parametrize("bits", [4, 8])
def test_scans_are_clean(watched: Card, rng: np.random.Generator, bits: int) -> None:
    codec = made_codec(rng, Sizes(m=33, width=1, dim=33, bits=bits))  # type: ignore[arg-type]
    contents = made_contents(rng, codec, [0, 45, 300, 1, 129])
    search = Search(watched, codec, contents, (2, 4, 17), 3)
    check(search, queries(rng, codec, 2), all_allowed(len(contents)))


def test_scans_by_tiles_are_clean(watched: Card, rng: np.random.Generator) -> None:
    sizes = Sizes(m=13, width=5, dim=65, metric="ip")
    test_scan_tiles.test_tiles_find_what_numpy_finds(watched, rng, sizes)


def test_choosing_lists_is_clean(watched: Card, rng: np.random.Generator) -> None:
    sizes = Sizes(rotated=True, dim=22, nlist=130)
    test_coarse.test_few_queries_choose_numpys_lists_in_one_launch(watched, rng, sizes, 3)
    test_coarse.test_many_queries_choose_numpys_lists(watched, rng, sizes)
    test_coarse.test_nearest_centroids_are_numpys(watched, rng, 65, 3, 17)


def test_exact_search_and_reranking_are_clean(watched: Card, rng: np.random.Generator) -> None:
    test_exact.test_exact_search_is_numpys(watched, rng, "l2", "float16", 19, False, 6)
    test_exact.test_reranking_gives_numpys_nearest(watched, rng, "cosine", "float32", 40, True)


def test_writing_rows_is_clean(watched: Card, rng: np.random.Generator) -> None:
    sizes = Sizes(m=33, width=1, dim=33)
    test_append.test_appended_rows_lie_where_numpy_puts_them(watched, rng, sizes)
    kept = test_append.test_a_rewrite_keeps_the_surviving_rows_in_their_order
    kept(watched, rng, sizes, 0.4, True)


def test_encoding_and_training_are_clean(
    watched: Card, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_encode.test_rows_become_numpys_codes_biases_and_gains(watched, rng, Sizes(), True)
    test_encode.test_points_are_put_in_order_and_added_up_by_group(
        watched, rng, 333, 20, monkeypatch
    )
    test_coarse.test_products_and_covariances_are_numpys(watched, rng, 65, 13, 66)
    test_encode.test_sums_of_codewords_are_numpys(watched, rng, 4, 3, 2, monkeypatch)


def test_rows_are_read_by_whole_sectors(
    watched: Card, checked: EmulatedDevice, rng: np.random.Generator
) -> None:
    vectors = rng.standard_normal((40, 128)).astype(np.float32)
    table = test_exact.Table(watched, "l2", vectors, padded=True)
    checked.traffic()
    table.rerank(vectors[:1], np.arange(40)[None], 10)
    assert checked.traffic().sectors_over_ideal("row") == 1.0
    table.exact(vectors[:1], 5, range(40), None)
    assert checked.traffic().sectors_over_ideal("streamed-row") == 1.0
