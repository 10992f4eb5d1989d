"""The measured services: how each is started, which images it gets, and what its engine did."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from PIL import Image

from benchmarks import processes
from benchmarks.scale.service_model import Limits
from service.engines.cpus import available_cpus

SubjectName = Literal["fixed", "bundled"]
SUBJECTS: tuple[SubjectName, ...] = get_args(SubjectName)
ROOT = Path(__file__).parents[2]
_STREET = ROOT / "models/example/street.jpg"


class SubjectError(RuntimeError):
    """A service that did not start; its reason is on standard error."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of the engine.

    Attributes:
        size: Images.
        seconds: How long it took.
        gap_s: Since the end of the batch before.
    """

    size: int
    seconds: float
    gap_s: float


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that is ready.

    Attributes:
        url: Where it listens.
        limits: The limits it was started with.
        image: The JPEG to send.
        batches_path: The file in which its engine's batches are written down.
        pid: Of its process.
    """

    url: str
    limits: Limits
    image: bytes
    batches_path: Path
    pid: int

    def batches(self) -> list[Batch]:
        """All batches so far, those of the warm-up too."""
        lines = self.batches_path.read_text(encoding="utf-8").splitlines()
        return [Batch(int(size), float(seconds), float(gap_s)) for size, seconds, gap_s in map(str.split, lines)]

    def cpu_s(self) -> float:
        """CPU seconds that all threads of the process have used."""
        return processes.cpu_s(self.pid)


def limits_of(name: SubjectName) -> Limits:
    """Settings: for the bundled model those that the service chooses on a CPU."""
    threads = available_cpus()
    if name == "bundled":
        return Limits(codec_threads=threads, max_batch_size=1, window_s=0.0)
    return Limits(codec_threads=threads, max_batch_size=8, window_s=0.005, forms_ahead=True)


def image_of(name: SubjectName) -> bytes:
    """The example street: unchanged, or so small that the CPU is hardly used beside an engine that sleeps."""
    if name == "bundled":
        return _STREET.read_bytes()
    small = io.BytesIO()
    with Image.open(_STREET) as image:
        image.resize((320, 240)).save(small, "JPEG", quality=85)
    return small.getvalue()


@contextmanager
def running(name: SubjectName) -> Iterator[RunningService]:
    """Start the service on a free port of the loopback and stop it at the end.

    Raises:
        SubjectError: It did not become ready.
    """
    limits = limits_of(name)
    with processes.unwinding_on_sigterm(), tempfile.TemporaryDirectory() as folder:
        batches = Path(folder) / "batches"
        environment = processes.environment(SCALE_ENGINE=name, SCALE_BATCHES=str(batches))
        with subprocess.Popen(_command(limits), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as server:
            try:
                yield RunningService(_url(server), limits, image_of(name), batches, server.pid)
            finally:
                server.terminate()


def _command(limits: Limits) -> list[str]:
    options = {
        "port": 0,
        "log-level": "error",
        "drain-delay-s": 0,
        "codec-threads": limits.codec_threads,
        "max-batch-size": limits.max_batch_size,
        "batch-window-ms": 1000 * limits.window_s,
        "max-requests-in-flight": limits.max_requests_in_flight,
        "request-timeout-s": limits.request_timeout_s,
    }
    arguments = [text for option, value in options.items() for text in (f"--{option}", str(value))]
    return [sys.executable, "-m", "benchmarks.scale.server", *arguments]


def _url(server: subprocess.Popen[str]) -> str:
    """Read the service's URL from the banner that it prints when it is ready."""
    assert server.stdout is not None
    banner = [server.stdout.readline() for _ in range(4)]
    if " is ready at " not in banner[0]:
        raise SubjectError("the service did not start")
    return banner[0].split()[-1]
