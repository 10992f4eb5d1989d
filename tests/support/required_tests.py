"""Hooks of pytest: tests of a GPU skip without one, and where tests are required a skip fails the run."""

from __future__ import annotations

import functools
import os

import pytest

from service.engines.onnxruntime_cuda import cuda_obstacle
from service.engines.tensorrt.cuda import gpu_obstacle
from service.model_directory.machine import ENGINE_RUNTIMES, MachineError, detect_machine


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``gpu`` skip without a GPU, and those marked ``gpu(runtime)`` also without that runtime."""
    for mark in item.iter_markers("gpu"):
        if (obstacle := _gpu_obstacle(*mark.args)) is not None:
            pytest.skip(obstacle)


@functools.cache
def _gpu_obstacle(runtime: str | None = None) -> str | None:
    if runtime in ENGINE_RUNTIMES:
        try:
            detect_machine(runtime)
        except MachineError as error:
            return str(error)
    return gpu_obstacle() or (cuda_obstacle() if runtime == "onnxruntime-cuda" else None)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test is a failure: one marked ``gpu`` under ``REQUIRE_GPU=1``, others under ``REQUIRE_ALL_TESTS=1``."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    skipped = reporter.stats.get("skipped", [])
    for variable, of_gpu in (("REQUIRE_GPU", True), ("REQUIRE_ALL_TESTS", False)):
        required = [report.nodeid for report in skipped if ("gpu" in report.keywords) == of_gpu]
        if required and os.environ.get(variable) == "1":
            reporter.ensure_newline()
            reporter.write_line(f"{variable} is set, and these were skipped: {', '.join(required)}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
