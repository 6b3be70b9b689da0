"""NVRTC without CUDA's driver and without CuPy: the calls and options that CuPy makes."""

from __future__ import annotations

import ctypes
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpu.cuda.compile import OPTIONS, source
from gpu.cuda.instances import names_of
from tests.cuda.emulator.build import CACHE, built_once, content_hash

#: Toolkit -> its library and headers below ``site-packages/nvidia`` (pyproject's dev extra).
_PLACES = {
    "12.9": ("cuda_nvrtc/lib/libnvrtc.so.12", "cuda_runtime/include"),
    "13": ("cu13/lib/libnvrtc.so.13", "cu13/include"),
}
#: Architectures of each toolkit that users have: CUDA 13 has no Volta.
ARCHITECTURES = {
    "12.9": (70, 75, 80, 86, 89, 90, 100, 120),
    "13": (75, 80, 86, 89, 90, 100, 120),
}


@dataclass(frozen=True, slots=True)
class Compiled:
    """A module for one architecture: its ELF file, and the symbol of each C++ name."""

    cubin: Path
    symbols: dict[str, str]


def nvidia_wheels() -> Path | None:
    """Return ``site-packages/nvidia``, where the wheels of the dev extra lie."""
    found = importlib.util.find_spec("nvidia")
    places = list(found.submodule_search_locations or ()) if found else []
    return Path(places[0]) if places else None


def missing(toolkit: str) -> str | None:
    """Return why this toolkit cannot be used here, or None."""
    wheels = nvidia_wheels()
    if wheels is None or not (wheels / _PLACES[toolkit][0]).exists():
        return f"NVRTC {toolkit} is not installed; pip install -e '.[dev]' on x86-64 Linux has it"
    return None


def options(toolkit: str, architecture: int) -> tuple[str, ...]:
    """Return what CuPy 14 passes (cupy/cuda/compiler.py) after a RawModule's own options."""
    wheels = nvidia_wheels()
    assert wheels is not None
    return (
        *OPTIONS,
        f"-I{wheels / _PLACES[toolkit][1]}",
        "-ftz=true",
        f"-arch=sm_{architecture}",
        "--device-as-default-execution-space",
    )


def compiled(stem: str, toolkit: str, architecture: int) -> Compiled:
    """Compile all instances of ``kernels/<stem>.cu``, or take them from the cache."""
    text, names = source(stem), names_of(stem, architecture)
    wheels = nvidia_wheels()
    assert wheels is not None
    given = options(toolkit, architecture)
    library = wheels / _PLACES[toolkit][0]
    build = library.resolve().stat().st_size  # tells releases apart without loading them
    own = [o for o in given if not o.startswith("-I")]
    key = content_hash(text, repr(names), repr(own), toolkit, str(build))
    cubin = CACHE / "compile" / f"{stem}-sm_{architecture}-{key}.cubin"
    symbols = cubin.with_suffix(".json")
    with built_once(symbols) as unfinished:
        if unfinished:
            code, lowered = _Nvrtc(library).compile(text, stem, names, given)
            cubin.write_bytes(code)
            unfinished.write_text(json.dumps(lowered), encoding="utf-8")
    return Compiled(cubin, json.loads(symbols.read_text(encoding="utf-8")))


class CompileFailed(AssertionError):
    """NVRTC refused a kernel; the message is its log."""


class _Nvrtc:
    """NVRTC's C API (docs.nvidia.com/cuda/nvrtc)."""

    def __init__(self, library: Path) -> None:
        self._library = _loaded(library)

    def compile(
        self, text: str, stem: str, names: Sequence[str], given: Sequence[str]
    ) -> tuple[bytes, dict[str, str]]:
        """Return the cubin, and the symbol of each name."""
        program = ctypes.c_void_p()
        self._call("CreateProgram", ctypes.byref(program), text.encode(), f"{stem}.cu".encode())
        try:
            for name in names:
                self._call("AddNameExpression", program, name.encode())
            self._compile(program, stem, given)
            return self._bytes(program, "CUBIN"), {n: self._symbol(program, n) for n in names}
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _compile(self, program: ctypes.c_void_p, stem: str, given: Sequence[str]) -> None:
        encoded = (ctypes.c_char_p * len(given))(*(o.encode() for o in given))
        failed = self._library.nvrtcCompileProgram(program, len(given), encoded)
        log = self._bytes(program, "ProgramLog").decode(errors="replace").strip("\0\n")
        warnings = [x for x in log.splitlines() if "warning" in x and "deprecated" not in x]
        if failed or warnings:
            raise CompileFailed(f"{stem}.cu with {' '.join(given)}:\n{log}")

    def _bytes(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"Get{what}Size", program, ctypes.byref(size))
        content = ctypes.create_string_buffer(size.value)
        self._call(f"Get{what}", program, content)
        return content.raw

    def _symbol(self, program: ctypes.c_void_p, name: str) -> str:
        symbol = ctypes.c_char_p()
        self._call("GetLoweredName", program, name.encode(), ctypes.byref(symbol))
        assert symbol.value is not None
        return symbol.value.decode()

    def _call(self, function: str, *arguments: object) -> None:
        extra = (0, None, None) if function == "CreateProgram" else ()
        status = self._library[f"nvrtc{function}"](*arguments, *extra)
        if status:
            raise CompileFailed(f"nvrtc{function} failed with status {status}")


@cache
def _loaded(library: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(library))
