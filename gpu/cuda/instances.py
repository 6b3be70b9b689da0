"""The one table of kernel instances: launchers, warm-up and the compile tests all read it.

One module per stem holds all its instances, so a search compiles nothing: what warm-up made is
all there is. Few instances keep the first start on a machine short.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instance:
    """A kernel by its C++ name, for cards of compute capability ``since`` and newer."""

    name: str
    since: int = 70


#: Stem of ``kernels/STEM.cu`` -> its instances.
INSTANCES: Mapping[str, tuple[Instance, ...]] = {
    "append": (Instance("append_rows"), Instance("survivors"), Instance("rewrite")),
    "coarse": (Instance("coarse_few"), Instance("choose"), Instance("prepare")),
    "encode": (Instance("residuals"), Instance("encode"), Instance("factors")),
    "exact": (
        Instance("exact<float, 1>"),
        Instance("exact<float, 4>"),
        Instance("exact<f16, 1>"),
        Instance("exact<f16, 4>"),
    ),
    "filter": (Instance("filter_rows"),),
    "kmeans": (
        Instance("count_members"),
        Instance("sum_members"),
        Instance("start_groups"),
        Instance("order_members"),
        Instance("sum_groups"),
        Instance("sum_codewords"),
        Instance("add_parts"),
    ),
    "place": (Instance("place"),),
    "products": (
        Instance("rotate"),
        Instance("half_squares"),
        Instance("list_scores"),
        Instance("nearest"),
        Instance("covariance"),
    ),
    "rerank": (
        Instance("distances<float>"),
        Instance("distances<f16>"),
        Instance("rerank<float>"),
        Instance("rerank<f16>"),
    ),
    "scan_slices": (
        Instance("scan_slices<4, float, true>"),
        Instance("scan_slices<8, f16, true>"),
        Instance("scan_slices<8, float, true>"),
        Instance("scan_slices<4, float, false>"),
        Instance("scan_slices<8, float, false>"),
        Instance("score_all<4>"),
        Instance("score_all<8>"),
    ),
    "scan_tiles": (
        Instance("count_pairs", 80),
        Instance("plan_pairs", 80),
        Instance("group_pairs", 80),
        Instance("halve_queries", 80),
        Instance("scan_tiles<4>", 80),
        Instance("scan_tiles<8>", 80),
        Instance("select_survivors<4, float, true>", 80),
        Instance("select_survivors<8, f16, true>", 80),
        Instance("select_survivors<8, float, true>", 80),
        Instance("select_survivors<4, float, false>", 80),
        Instance("select_survivors<8, float, false>", 80),
    ),
    "tables": (Instance("make_tables"),),
}


def names_of(stem: str, compute_capability: int) -> tuple[str, ...]:
    """Return the C++ names that the module of ``stem`` holds on a card."""
    return tuple(i.name for i in INSTANCES.get(stem, ()) if i.since <= compute_capability)
