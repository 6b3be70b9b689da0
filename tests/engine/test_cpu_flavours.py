"""Which kernels a machine gets, and that all it can run give the same answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from gpu import BackendError, open_backend, warm_up
from gpu.cpu import threads
from gpu.cpu.features import FLAVOUR, NEEDED, SETTING, Flavour, choose_flavour, target_features
from gpu.cpu.jit import usable_folder
from gpu.cpu.scan_shuffle import shuffle_sums
from gpu.cpu.simd import I64, store

HERE = Path(__file__).parent
#: Of the second, the cases whose name says cpu; all of the first, by the name of the file.
KERNEL_TESTS = [str(HERE / name) for name in ("test_cpu_kernels.py", "test_training_steps.py")]


def test_the_fastest_flavour_that_the_features_allow_is_chosen() -> None:
    every = frozenset[str]().union(*NEEDED.values()) - {"neon"}
    assert choose_flavour(every) == "avx512"
    assert choose_flavour(every - {"avx512vbmi"}) == "avx2"
    assert choose_flavour(every - {"avx512vnni", "f16c"}) == "portable"
    assert choose_flavour({"neon", "fp-armv8"}) == "neon"
    assert choose_flavour(frozenset()) == "portable"
    assert choose_flavour(every, "portable") == "portable"


def test_a_flavour_that_the_machine_cannot_run_is_refused_before_anything_is_compiled() -> None:
    with pytest.raises(BackendError, match="cannot run avx512"):
        choose_flavour(NEEDED["avx2"], "avx512")
    with pytest.raises(BackendError, match=SETTING):
        choose_flavour(NEEDED["avx2"], "sse9")


@pytest.mark.parametrize("flavour", ["avx2", "portable"])
def test_another_flavour_passes_the_same_tests(flavour: Flavour) -> None:
    if flavour == FLAVOUR or not NEEDED[flavour] <= target_features():
        pytest.skip("it is this process' own, or cannot run here")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-k", "cpu", *KERNEL_TESTS],
        env={**os.environ, SETTING: flavour},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout


def test_neon_code_looks_up_sixteen_bytes_at_once() -> None:
    module = ir.Module()
    module.triple = "aarch64-unknown-linux-gnu"
    scan = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 4), "scan")
    builder = ir.IRBuilder(scan.append_basic_block())
    block, padded, table, out = scan.args
    for part, sums in enumerate(shuffle_sums(builder, block, padded, table, "neon")):
        store(builder, sums, builder.add(out, ir.Constant(I64, 64 * part)))
    builder.ret_void()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(module.triple)
    machine = target.create_target_machine(features="+neon", opt=2)
    assembly = machine.emit_assembly(llvm.parse_assembly(str(module)))
    assert "tbl\tv" in assembly
    assert "ldrb" not in assembly


def test_a_cache_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    assert usable_folder(tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    (tmp_path / "file").write_text("")
    assert usable_folder(tmp_path / "file" / "below") is None


def test_kernels_work_without_a_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    program = (
        "from gpu.cpu.jit import CACHE_FOLDER; from gpu.cpu.selection import sort;"
        "import numpy as np; a = np.array([2, 1], 'f4'); b = np.array([0, 1], 'i4');"
        "sort(a.ctypes.data, b.ctypes.data, 2); print(CACHE_FOLDER, b.tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[0] == "None [1, 0]"


def test_auto_takes_the_cpu_kernels_and_warming_up_twice_costs_nothing_new() -> None:
    assert open_backend().name == open_backend("cpu").name == "cpu"
    assert open_backend("numpy").name == "numpy"
    with pytest.raises(BackendError, match="no backend called"):
        open_backend("abacus")
    warm_up()
    assert warm_up() < 5


def test_training_leaves_a_core_to_searches_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (threads.SETTING, threads.TRAINING_SETTING):
        monkeypatch.delenv(name, raising=False)
    assert threads.training_threads() == max(1, threads.thread_count() - 1)
    monkeypatch.setenv(threads.TRAINING_SETTING, "5")
    monkeypatch.setenv(threads.SETTING, "3")
    assert (threads.training_threads(), threads.thread_count()) == (5, 3)
