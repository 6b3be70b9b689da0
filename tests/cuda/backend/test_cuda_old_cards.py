"""Cards before sm_80 have neither bulk copies nor the tensor cores' scan, and the same answers.

Their sources are compiled with their own __CUDA_ARCH__; a function that they lack does not compile.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu import BackendError, Index, NumpyBackend
from gpu.cuda.device import Kernel
from gpu.cuda.instances import INSTANCES, names_of
from tests.cuda.backend.conftest import N_ROWS, NLIST, MakeCuda, MakeFile, rows_and_queries
from tests.cuda.emulator import EmulatedDevice

CARDS = [70, pytest.param(75, marks=pytest.mark.slow)]
#: Enough for sm_80 to scan with tiles: 60 queries probe all lists.
MANY = 60


@pytest.mark.parametrize("capability", CARDS)
def test_every_kernel_of_an_old_card_compiles_and_no_other(
    capability: int, make_cuda: MakeCuda
) -> None:
    device = make_cuda(compute_capability=capability).device
    assert isinstance(device, EmulatedDevice)
    for stem, instances in INSTANCES.items():
        names = names_of(stem, capability)
        for instance in instances:
            if instance.name in names:
                assert device.compiled(Kernel(stem, instance.name)).parameters
            else:
                with pytest.raises(BackendError, match=f"is not for sm_{capability}"):
                    device.compiled(Kernel(stem, instance.name))


@pytest.mark.parametrize("capability", CARDS)
def test_an_index_lives_on_an_old_card(
    capability: int, make_cuda: MakeCuda, make_file: MakeFile
) -> None:
    backend = make_cuda(compute_capability=capability, schedule="random", lazy=True)
    _, queries = rows_and_queries(MANY)
    on_card, on_host = (Index.load(make_file(), made) for made in (backend, NumpyBackend()))
    for index in (on_card, on_host):
        while index.encode_pending(200):
            index.publish()
        index.kill(np.arange(1, N_ROWS, 7))
        index.publish()
    hows: tuple[dict[str, Any], ...] = ({"nprobe": NLIST, "rerank": 200}, {"exact": True})
    for how in hows:
        for asked in (queries, queries[:1]):
            found, wanted = (index.state.search(asked, 5, **how) for index in (on_card, on_host))
            np.testing.assert_allclose(found.distances, wanted.distances, rtol=1e-4)
            assert (found.ids == wanted.ids).mean() > 0.99
    launched = {kernel.stem for kernel in backend.device.launched}  # type: ignore[attr-defined]
    assert "scan_slices" in launched
    assert "scan_tiles" not in launched
