"""The real CuPy, unchanged, over a HIP runtime on the CPU: ``cases/`` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cuda.host.environment import HERE, environment, why_no_host

#: Compiling all kernels anew takes g++ about a minute; a machine under load several.
TIMEOUT_S = 900


def run_cases(report: Path, case: str, *options: str, **settings: str) -> tuple[int, int]:
    """Run one file of ``cases/``; return how many passed and were skipped, fail for any other."""
    if reason := why_no_host():
        pytest.skip(reason)
    command = [sys.executable, "-m", "pytest", str(HERE / "cases" / case), "-q", "--tb=short"]
    quiet = ["-p", "no:cacheprovider", f"--junitxml={report}", f"--timeout={TIMEOUT_S}"]
    done = subprocess.run(
        [*command, *quiet, *options],
        env=environment(**settings),
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    suite = next(ElementTree.parse(report).iter("testsuite"))
    skipped = int(suite.attrib["skipped"])
    return int(suite.attrib["tests"]) - skipped, skipped


@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize(
    "case", ["case_device.py", "case_lost.py", "case_index.py", "case_training.py"]
)
def test_cases_pass_with_lazy_streams(tmp_path: Path, case: str) -> None:
    passed, skipped = run_cases(tmp_path / "report.xml", case, FAKE_HIP_LAZY="1")
    assert passed > 0
    assert skipped == 0
    sys.stdout.write(f"{case}: {passed} cases with CuPy on the fake card{os.linesep}")


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("schedule", ["0", "1"], ids=["in-order", "reverse"])
def test_the_index_passes_with_eager_streams_in_other_schedules(
    tmp_path: Path, schedule: str
) -> None:
    passed, _ = run_cases(tmp_path / "report.xml", "case_index.py", FAKE_HIP_SCHEDULE=schedule)
    assert passed > 0
