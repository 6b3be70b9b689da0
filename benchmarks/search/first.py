"""``python -m benchmarks.search.first FILE DIM``: how long the first search of a process takes.

The kernels are loaded and the index is read, as a server has done when it says that it is ready.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from gpu import Index, warm_up

from .engines import K

SEARCHES = 200


def main() -> None:
    """Print one JSON object: seconds to ready, the first search and the median, in µs."""
    began = time.perf_counter()
    warm_up()
    state = Index.load(Path(sys.argv[1])).state
    ready_s = time.perf_counter() - began
    queries = state.vectors(np.linspace(0, state.n_rows - 1, SEARCHES).astype(np.int64))
    took = []
    for i in range(SEARCHES):
        start = time.perf_counter()
        state.search(queries[i : i + 1], K)
        took.append((time.perf_counter() - start) * 1e6)
    median = float(np.median(took))
    print(
        json.dumps(
            {
                "ready_s": round(ready_s, 2),
                "first_us": round(took[0], 1),
                "median_us": round(median, 1),
                "first_over_median": round(took[0] / median, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
