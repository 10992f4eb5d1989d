"""A service of real processes: supervisor, engine process, workers."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import httpx
import pytest

from tests.support import plain_http

# A hang ends the test by pytest's limit; this one only keeps it from waiting for ever on a loaded machine.
_PATIENCE_S = 120


class Service:
    """A running service with workers.

    Attributes:
        url: Where it listens.
        process: The supervisor.
    """

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    @property
    def children(self) -> list[int]:
        """The processes of the supervisor, the engine process among them."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text(encoding="ascii").split()]

    @property
    def engine(self) -> int:
        """The engine process."""
        return next(pid for pid in self.children if _name(pid) == "ecenet engine")

    @property
    def workers(self) -> list[int]:
        """The workers."""
        return [pid for pid in self.children if _name(pid).startswith("ecenet worker")]

    def is_ready(self) -> bool:
        try:
            return plain_http.get(self.url + "/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def until(self, is_reached: Callable[[], bool]) -> None:
        """Wait for a state of the processes."""
        end = time.monotonic() + _PATIENCE_S
        while not is_reached():
            assert time.monotonic() < end, "the state never came"
            time.sleep(0.02)

    def metric(self, series: str) -> float:
        """The value of a series, as a worker tells it."""
        text = plain_http.get(self.url + "/metrics").text
        found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
        assert found is not None, series
        return float(found[1])

    def until_metric(self, series: str, value: float) -> None:
        """Wait until a series has a value."""
        self.until(lambda: self.metric(series) == value)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait()


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


class StartService(Protocol):
    """Starts a service on a free port; options are those of the command line."""

    def __call__(self, *options: str) -> AbstractContextManager[Service]: ...


@pytest.fixture
def start_service(tiny_model_dir: Path, tmp_path: Path) -> StartService:
    """Serves the brightness model; all of its processes are gone afterwards."""

    @contextmanager
    def start(*options: str) -> Iterator[Service]:
        command = [
            sys.executable, "-m", "service", "--port", "0", "--model-dir", str(tiny_model_dir), "--workers", "2",
            "--engine", "onnxruntime", "--engine-threads", "1", "--codec-threads", "2", "--drain-delay-s", "0",
            *options,
        ]  # fmt: skip
        log = (tmp_path / "log").open("w", encoding="utf-8")
        with log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert " is ready at " in line, (tmp_path / "log").read_text(encoding="utf-8")
                yield Service(process, line.rpartition(" ")[2].strip())
            finally:
                process.kill()

    return start
