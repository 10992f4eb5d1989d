"""A service on a machine with faults: streams that take nothing or are closed, a full disk, a clock that jumps."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from benchmarks.reliability.faults import jumping_clock, small_disk
from tests.support import plain_http
from tests.support.limits import HANG_S
from tests.support.pictures import Png

DAY_S = 86_400
# Answers within the deadline of the defaults, whatever the clock says.
JUMPS_S = (DAY_S, -DAY_S, 3650 * DAY_S, 0, -3650 * DAY_S)


@contextmanager
def served(model_dir: Path, *options: str, redirections: str = "") -> Iterator[str]:
    """The address of a service whose streams a shell has redirected; it ends with status 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "service", "--port", str(port), "--model-dir", str(model_dir), "--workers", "1",
        "--engine", "onnxruntime", "--drain-delay-s", "0", "--log-level", "debug", *options,
    ]  # fmt: skip
    with subprocess.Popen(["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", *command]) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(url, process)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(HANG_S) == 0


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + HANG_S
    while time.monotonic() < end:
        assert process.poll() is None
        try:
            if plain_http.get(url + "/readyz").status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise AssertionError("the service is never ready")


def fill(file: Path) -> None:
    """Write until the file system is full."""
    with file.open("wb", buffering=0) as filling, suppress(OSError):
        while True:
            filling.write(bytes(1 << 12))
    assert os.statvfs(file).f_bfree == 0


def segment(url: str, png: Png) -> httpx.Response:
    return plain_http.post(url + "/segment", files={"file": ("photo.png", png())})


@pytest.mark.parametrize("redirections", ["2>/dev/full", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_streams_that_take_nothing_do_not_stop_the_service(redirections: str, tiny_model_dir: Path, png: Png) -> None:
    with served(tiny_model_dir, redirections=redirections) as url:
        assert segment(url, png).status_code == 200
        metrics = plain_http.get(url + "/metrics").text
    line = next(line for line in metrics.splitlines() if line.startswith("ecenet_log_lines_dropped_total{"))
    assert (float(line.split()[-1]) > 0) is ("2>/dev/full" in redirections)


def test_a_clock_that_jumps_changes_no_answer(tiny_model_dir: Path, tmp_path: Path, png: Png) -> None:
    log = tmp_path / "log"
    with (
        jumping_clock(tmp_path / "clock") as clock,
        served(tiny_model_dir, "--request-timeout-s", "60", redirections=f"2>{log}") as url,
    ):
        expected = segment(url, png).content
        for seconds in JUMPS_S * 2:
            clock.move(seconds)
            response = segment(url, png)
            assert (response.status_code, response.content) == (200, expected)
            assert plain_http.get(url + "/readyz").status_code == 200
    years = {line[:4] for line in log.read_text(encoding="utf-8").splitlines() if line[:4].isdigit()}
    now = time.gmtime().tm_year
    assert {str(now), str(now + 10), str(now - 10)} <= years


def test_a_full_disk_does_not_stop_the_service(tiny_model_dir: Path, tmp_path: Path, png: Png) -> None:
    with small_disk(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("no file system can be mounted here")
        (disk / "log").touch()
        fill(disk / "filling")
        options = ["--engine-dir", str(disk / "engines"), "--state-dir", str(disk / "state")]
        with served(tiny_model_dir, *options, redirections=f"2>>{disk / 'log'}") as url:
            assert segment(url, png).status_code == 200
            (disk / "filling").unlink()
            assert segment(url, png).status_code == 200
        log = (disk / "log").read_text(encoding="utf-8")
    assert "lines of the log were dropped: No space left on device" in log
    assert "POST /segment 200" in log
