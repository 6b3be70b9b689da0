"""Which vector instructions kernels may use, decided before anything is compiled.

Code for an instruction that the target lacks ends the process inside LLVM, without an exception. So
the choice is made once, from the features that numba compiles for, and never by trial.
"""

from __future__ import annotations

import os
from collections.abc import Set
from typing import Any, Literal, get_args

import numba.core.config
from numba.core.codegen import get_host_cpu_features

from gpu.errors import BackendError

Flavour = Literal["avx512", "avx2", "neon", "portable"]

#: Names as LLVM writes them.
NEEDED: dict[Flavour, frozenset[str]] = {
    "avx512": frozenset({"avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512vnni"}),
    "avx2": frozenset({"avx2", "fma", "f16c"}),
    "neon": frozenset({"neon"}),
    "portable": frozenset(),
}
#: Asks for a flavour by name; it must be one that the machine can run.
SETTING = "VECMIRROR_CPU_KERNELS"


def target_features() -> frozenset[str]:
    """Return the features numba compiles for; NUMBA_CPU_FEATURES and NUMBA_ENABLE_AVX count."""
    config: Any = numba.core.config
    text: str | None = config.CPU_FEATURES
    if text is None:
        text = get_host_cpu_features()
    return frozenset(item[1:] for item in text.split(",") if item.startswith("+"))


def choose_flavour(features: Set[str], wanted: str | None = None) -> Flavour:
    """Return the fastest flavour that ``features`` allow, or the ``wanted`` one.

    Raise BackendError for a name that does not exist or instructions that are not there.
    """
    if not wanted:
        return next(name for name, needed in NEEDED.items() if needed <= features)
    for name in get_args(Flavour):
        if name == wanted:
            missing = NEEDED[name] - features
            if missing:
                raise BackendError(f"this CPU cannot run {name} kernels: no {sorted(missing)[0]}")
            flavour: Flavour = name
            return flavour
    raise BackendError(f"{SETTING} must be one of {', '.join(NEEDED)}, not {wanted!r}")


FLAVOUR: Flavour = choose_flavour(target_features(), os.environ.get(SETTING))
