"""A skipped test fails the run where a GPU, or everything, is required; elsewhere it says why it skips."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest

@pytest.mark.gpu
def test_of_the_gpu():
    pass

@pytest.mark.gpu("tensorrt")
def test_of_tensorrt():
    pass

def test_without():
    pass
"""
SKIPPED = "def test_for_another_reason():\n    pytest.skip('no data')\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text("from tests.support.required_tests import *\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\naddopts = -rs -p no:cacheprovider\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    return tmp_path


def run(project: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The tests of the project where CUDA shows no GPU."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REQUIRE_")}
    environment = {**inherited, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "pytest", "-q", str(project)]
    return subprocess.run(command, env=environment, cwd=project, capture_output=True, text=True, check=False)


def test_tests_of_the_gpu_skip_with_a_reason(project: Path) -> None:
    result = run(project, REQUIRE_ALL_TESTS="1")
    assert result.returncode == 0, result.stdout
    assert "1 passed, 2 skipped" in result.stdout
    assert "there is no usable NVIDIA GPU" in result.stdout


def test_require_gpu_turns_their_skips_into_failures(project: Path) -> None:
    result = run(project, REQUIRE_GPU="1")
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout
    required = "REQUIRE_GPU is set, and these were skipped: test_it.py::test_of_the_gpu, test_it.py::test_of_tensorrt"
    assert required in result.stdout


def test_other_skips_fail_only_where_all_tests_are_required(project: Path) -> None:
    with (project / "test_it.py").open("a") as stream:
        stream.write(SKIPPED)
    result = run(project, REQUIRE_ALL_TESTS="1")
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout
    assert "REQUIRE_ALL_TESTS is set, and these were skipped: test_it.py::test_for_another_reason\n" in result.stdout
    (project / "test_it.py").write_text("import pytest\n" + SKIPPED)
    assert run(project, REQUIRE_GPU="1").returncode == 0
