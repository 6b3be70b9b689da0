"""A process environment in which ``import cupy`` is the real CuPy and the card is the emulator.

CuPy's ROCm build links the HIP runtime dynamically, CUDA's does not; so it is that one, unchanged,
over ``hip/``: a runtime on the CPU. What of HIP CuPy names and ``hip/`` lacks becomes a stub that
says "not supported".
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.cuda.emulator import why_not
from tests.cuda.emulator.build import (
    CACHE,
    FLAGS,
    GCC_FLAGS,
    INCLUDE,
    built_once,
    content_hash,
    runtime,
)

HERE = Path(__file__).parent
#: The same code as the CUDA wheels of this version.
CUPY = "cupy-rocm-7-0==14.2.*"
#: Times that tests wait longer for an emulated card than for the CPU (tests/fix_mirroring.py).
PATIENCE = "10"
_SYMBOL = re.compile(r" [Uw] ((?:hip|roc|__hip|nccl)\w*)(?:@(\S+))?")
_LIBRARY = re.compile(r"\[(lib(?:amd|roc|hip|rccl)[^]]*)\]")
_OURS = re.compile(r'^(?:HIP_CALL\(|extern "C" [\w* ]+? \**)(\w+)[(,)]', re.MULTILINE)


def why_no_host() -> str | None:
    """Return why these tests cannot run here, or None."""
    if reason := why_not():
        return reason
    if shutil.which("g++") is None:
        return "the fake HIP runtime needs g++ (Debian, Ubuntu: apt-get install g++)"
    return None


def environment(**settings: str) -> dict[str, str]:
    """Return the environment of a process that uses the card; ``settings`` as in runtime.h."""
    packages = installed_cupy()
    libraries = hip_libraries(packages)
    headers = f"-DHEADERS_{content_hash(INCLUDE)}"  # so that other headers are another command
    flags = [*FLAGS, *GCC_FLAGS, "-O2", "-D__CUDA_ARCH__=800", headers, "-I", str(INCLUDE)]
    emulator = runtime(checked=False)
    search = [str(packages), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in search if p),
        "LD_LIBRARY_PATH": f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        "PATH": f"{libraries}/bin:{os.environ['PATH']}",
        "ROCM_HOME": str(libraries),
        "CUPY_CACHE_DIR": str(CACHE / "host" / "cupy"),
        "TEST_PATIENCE": PATIENCE,
        "TEST_DEVICE": "cuda",
        "FAKE_HIP_LIBRARY": str(libraries / "libfakehip.so"),
        "FAKE_HIP_CACHE": str(_folder(CACHE / "host" / "kernels")),
        "FAKE_HIP_COMPILER": " ".join(["g++", *flags]),
        "FAKE_HIP_LINKER": f"g++ -shared -Wl,--no-as-needed,-rpath,{emulator.parent} {emulator}",
        **settings,
    }


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def installed_cupy() -> Path:
    """Return a folder with the wheel alone; all else is this interpreter's. Download it once."""
    folder = CACHE / "host" / f"packages-{content_hash(CUPY, sys.version)}"
    done = folder.with_suffix(".done")
    with built_once(done) as unfinished:
        if unfinished:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            quiet = ["--disable-pip-version-check", "--upgrade", "--target", str(folder)]
            subprocess.run([*pip, *quiet, CUPY], check=True, stderr=subprocess.DEVNULL)
            unfinished.touch()
    return folder


def hip_libraries(packages: Path) -> Path:
    """Return the folder with the libraries that CuPy's modules ask for: all of them are ours."""
    folder = CACHE / "host" / f"hip-{content_hash(HERE / 'hip', str(packages), INCLUDE)}"
    done = folder.with_suffix(".done")
    with built_once(done) as unfinished:
        if unfinished:
            _folder(folder / "bin")
            symbols, names = _asked_for(packages)
            _compile(folder, symbols)
            for name in {*names, "libhiprtc.so.7"}:
                (folder / name).unlink(missing_ok=True)
                (folder / name).symlink_to("libfakehip.so")  # one file: one copy of its state
            _pretend_compiler(folder / "bin" / "hipcc")
            unfinished.touch()
    return folder


def _asked_for(packages: Path) -> tuple[Mapping[str, str], set[str]]:
    """Return the HIP symbols of CuPy's modules with their versions, and the libraries' names."""
    versions: dict[str, str] = {}
    names: set[str] = set()
    for module in packages.glob("cupy*/**/*.so"):
        for symbol, version in _SYMBOL.findall(_output_of("nm", "-D", "-u", str(module))):
            versions.setdefault(symbol, version)
        names.update(_LIBRARY.findall(_output_of("readelf", "-d", str(module))))
    return versions, names


def _output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _compile(folder: Path, symbols: Mapping[str, str]) -> None:
    sources = sorted((HERE / "hip").glob("*.cpp"))
    ours = {m for s in sources for m in _OURS.findall(s.read_text(encoding="utf-8"))}
    stubs, versions = folder / "stubs.c", folder / "versions.map"
    stubs.write_text(_stubs(set(symbols) - ours), encoding="utf-8")
    versions.write_text(_version_script(symbols), encoding="utf-8")
    subprocess.run(["gcc", "-c", "-fPIC", "-w", stubs, "-o", folder / "stubs.o"], check=True)
    command = ["g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-I", str(INCLUDE)]
    linked = [
        *map(str, sources),
        str(folder / "stubs.o"),
        f"-Wl,--version-script={versions}",
        "-ldl",
    ]
    subprocess.run([*command, *linked, "-o", str(folder / "libfakehip.so")], check=True)


def _stubs(names: Iterable[str]) -> str:
    """Return C functions that say hipErrorNotSupported."""
    return "".join(f"int {name}(void) {{ return 801; }}\n" for name in sorted(names))


def _version_script(symbols: Mapping[str, str]) -> str:
    by_version: dict[str, list[str]] = defaultdict(list)
    for symbol, version in symbols.items():
        if version:
            by_version[version].append(symbol)
    parts = [
        f"{version} {{ global: {' '.join(f'{s};' for s in sorted(names))} }};\n"
        for version, names in sorted(by_version.items())
    ]
    return "".join(parts) + "other { global: hip*; roc*; __hip*; nccl*; fake_hip_*; };\n"


def _pretend_compiler(path: Path) -> None:
    """CuPy asks hipcc for its include folders."""
    answer = "#include <...> search starts here:\\n /nonexistent\\nEnd of search list.\\n"
    path.write_text(f'#!/bin/sh\nprintf "{answer}" >&2\n', encoding="utf-8")
    path.chmod(0o755)
