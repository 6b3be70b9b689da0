"""How kernels are compiled and where the machine code is kept between processes.

The cache folder is named after the kernels' source, so that an edit in any file, imported ones
included, compiles anew. A folder that cannot be written costs compile time at each start, nothing
else.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numba
import numba.core.config
from numba.extending import intrinsic

from .features import FLAVOUR

Function = TypeVar("Function", bound=Callable[..., Any])
#: A float32 or float64 inside a kernel; mypy's rules for NumPy's do not fit it.
Float: TypeAlias = Any


def _wanted_folder() -> Path:
    """Return NUMBA_CACHE_DIR, or the place for caches of this user."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        return Path(os.environ["NUMBA_CACHE_DIR"])
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "vecmirror"


def _source_name() -> str:
    """Return a name that changes with the kernels' source, the compiler and the flavour."""
    digest = hashlib.sha256(f"{sys.version} {numba.__version__} {FLAVOUR}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return f"kernels-{digest.hexdigest()[:16]}"


def usable_folder(wanted: Path) -> Path | None:
    """Return ``wanted`` once it exists and a file could be written there, else None."""
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=wanted):
            return wanted
    except (OSError, RuntimeError):
        return None


def _cache_folder() -> Path | None:
    try:
        return usable_folder(_wanted_folder() / _source_name())
    except (OSError, RuntimeError):
        return None


CACHE_FOLDER = _cache_folder()


def compiled(function: Function) -> Function:
    """Compile ``function`` at its first call, without the GIL, from the cache where there is one.

    numba looks for its folder when a function is decorated; the setting is put back at once.
    """
    config: Any = numba.core.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(CACHE_FOLDER or before)
    try:
        return _wrapped(function, cache=CACHE_FOLDER is not None)
    except RuntimeError:  # The source is in no file that numba could watch.
        return _wrapped(function, cache=False)
    finally:
        config.CACHE_DIR = before


def _wrapped(function: Function, cache: bool) -> Function:
    wrap: Any = numba.njit(nogil=True, cache=cache, boundscheck=False, error_model="numpy")
    kernel: Function = wrap(function)
    return kernel


def emitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make an intrinsic: ``function`` returns a signature and what emits its LLVM code.

    Kernels call it without the first argument, numba's typing context.
    """
    made: Callable[..., Any] = intrinsic(function)
    return made
