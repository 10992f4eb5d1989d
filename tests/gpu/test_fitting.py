"""Packages and tests that ``make gpu-test`` chooses for a GPU, decided without one."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from service.model_directory.machine import supported_capabilities
from tests.gpu.fitting import Gpus, misfit
from tests.gpu.packages import RTX_CAPABILITIES, requirements

SCRIPT = Path(__file__).with_name("packages.py")
ROOT = SCRIPT.parents[2]


def test_rtx_is_installed_only_where_it_builds() -> None:
    assert requirements(["8.9"]) == ["-e .[gpu-test]", "tensorrt-rtx-cu13>=1.7.1"]
    assert requirements(["9.0", "8.9"]) == requirements(["10.0"]) == ["-e .[gpu-test]"]


def test_rtx_builds_for_the_gpus_that_are_listed() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    assert list(RTX_CAPABILITIES) == supported_capabilities(rtx)


@pytest.mark.parametrize(
    ("arguments", "text"), [((), "nvidia-smi lists no GPU"), (("7.0",), "capability 7.0, CUDA 13")]
)
def test_a_machine_that_cannot_run_the_tests_is_told(arguments: tuple[str, ...], text: str) -> None:
    done = subprocess.run([sys.executable, "-I", str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert text in done.stderr


def test_the_script_prints_lines_for_pip() -> None:
    command = [sys.executable, "-I", str(SCRIPT), "9.0"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "-e .[gpu-test]\n"


def test_the_environment_has_one_onnxruntime() -> None:
    """Both packages hold the same files: whichever is installed last would run."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    pending, packages = ["gpu-test"], set[str]()
    while pending:
        for requirement in extras[pending.pop()]:
            if (inner := re.fullmatch(r"ecenet\[(.*)\]", requirement)) is not None:
                pending += inner[1].split(",")
            packages.add(re.split(r"[\[<>=;~]", requirement)[0])
    assert {"onnxruntime-gpu", "tensorrt", "torch", "onnxscript", "pytest"} <= packages
    assert "onnxruntime" not in packages


@pytest.mark.parametrize(
    ("gpus", "mark", "text"),
    [
        (Gpus(1, "9.0"), pytest.mark.gpu("tensorrt-rtx"), "does not build for compute capability 9.0"),
        (Gpus(1, "8.9"), pytest.mark.gpu("tensorrt-rtx"), None),
        (Gpus(1, "9.0"), pytest.mark.gpu("tensorrt"), None),
        (Gpus(1, "9.0"), pytest.mark.gpu(count=2), "it needs 2 GPUs, there are 1"),
        (Gpus(2, "9.0"), pytest.mark.gpu(count=2), None),
    ],
)
def test_what_the_gpu_cannot_run_is_left_out(gpus: Gpus, mark: pytest.MarkDecorator, text: str | None) -> None:
    found = misfit(gpus, mark.mark)
    assert found is None if text is None else text in str(found)
