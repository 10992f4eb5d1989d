"""One service under load: rates, latencies, and the CPU seconds and memory of each kind of its processes."""

from __future__ import annotations

import asyncio
import io
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import processes
from benchmarks.feed.sleeping import sleeping_logits, sleeping_manifest
from benchmarks.peers.peers import Call, Peer
from benchmarks.peers.running import Exam, RunningPeer, running
from benchmarks.peers.scenarios import closed_loop
from benchmarks.peers.work import ROOT
from service.imaging.codec import encode_label_png
from service.imaging.segmentation import labels_of

Size = tuple[int, int]

_STREET = ROOT / "models/example/street.jpg"
_NUM_IMAGES = 16
_BATCH_SIZES = re.compile(r"^ecenet_batch_size_(sum|count)\{.*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SleepingService(Peer):
    """The service around an engine that sleeps, as ``benchmarks.peers.running`` starts it.

    Attributes:
        root: The checkout whose service it is.
        options: Of ``benchmarks.feed.server``.
    """

    root: Path = ROOT
    options: tuple[str, ...] = ()

    def command(self, environments: Path, port: int) -> list[str]:  # noqa: ARG002  it needs none
        """Command that starts the server."""
        path = f"PYTHONPATH={self.root}:{ROOT}"
        return ["env", path, sys.executable, "-P", "-m", "benchmarks.feed.server", "--port", str(port), *self.options]


@dataclass(frozen=True, slots=True)
class Load:
    """Figures of a steady load.

    Attributes:
        images_per_s: Right answers.
        p50_ms: Latency.
        p99_ms: Latency.
        request_cpu_ms: CPU time of all processes for an image.
        loop_cpu_ms: CPU time of the event loops of the processes that speak HTTP, for an image.
        engine_cpu_ms: CPU time of the engine's process for an image; that of the only process if there is one.
        batch: Images of a batch, on average.
        wrong: Answers that were not right.
    """

    images_per_s: float
    p50_ms: float
    p99_ms: float
    request_cpu_ms: float
    loop_cpu_ms: float
    engine_cpu_ms: float
    batch: float
    wrong: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of all processes: what several share counts once, and once for each."""

    pss_mib: float
    rss_mib: float


@dataclass(frozen=True, slots=True)
class _Usage:
    time_s: float
    total_s: float
    loops_s: float
    engine_s: float
    images: float
    batches: float


@dataclass(frozen=True, slots=True)
class Subject:
    """A service that is ready, and the file with the id of its engine's process."""

    server: RunningPeer
    pid_file: Path

    def measure(self, exam: Exam, clients: int, seconds: float) -> Load:
        """A steady load, after a warm-up of a fifth of the time."""
        asyncio.run(closed_loop(self.server, exam, clients, seconds / 5))
        before = self._usage()
        exchanges = asyncio.run(closed_loop(self.server, exam, clients, seconds))
        after = self._usage()
        latencies = [1000 * exchange.latency_s for exchange in exchanges if exchange.is_right]
        count = max(1, len(latencies))
        p50, p99 = np.percentile(latencies, [50, 99]) if latencies else (np.nan, np.nan)
        return Load(
            images_per_s=len(latencies) / (after.time_s - before.time_s),
            p50_ms=float(p50),
            p99_ms=float(p99),
            request_cpu_ms=1000 * (after.total_s - before.total_s) / count,
            loop_cpu_ms=1000 * (after.loops_s - before.loops_s) / count,
            engine_cpu_ms=1000 * (after.engine_s - before.engine_s) / count,
            batch=(after.images - before.images) / max(1.0, after.batches - before.batches),
            wrong=len(exchanges) - len(latencies),
        )

    def memory(self) -> Memory:
        """Memory at this moment."""
        pids = self.server.pids()
        return Memory(sum(map(processes.pss_mib, pids)), sum(map(processes.rss_mib, pids)))

    def _usage(self) -> _Usage:
        engine = int(self.pid_file.read_text(encoding="ascii"))
        pids = self.server.pids()
        http = pids if len(pids) == 1 else [pid for pid in pids if pid not in {self.server.popen.pid, engine}]
        images, batches = self._batches()
        return _Usage(
            time_s=time.perf_counter(),
            total_s=sum(map(processes.cpu_s, pids)),
            loops_s=sum(map(processes.main_thread_cpu_s, http)),
            engine_s=processes.cpu_s(engine),
            images=images,
            batches=batches,
        )

    def _batches(self) -> tuple[float, float]:
        """Images and batches that the engine has run."""
        with urllib.request.urlopen(self.server.url.removesuffix(self.server.peer.path) + "/metrics") as response:
            values = dict(_BATCH_SIZES.findall(response.read().decode()))
        return float(values["sum"]), float(values["count"])


@contextmanager
def started(service: SleepingService, exam: Exam) -> Iterator[Subject]:
    """Start a service on a free port of the loopback, and end it.

    Raises:
        PeerError: It did not answer an image rightly in time.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pid_file = folder / "engine"
        peer = replace(service, options=(*service.options, "--pid-file", str(pid_file)))
        with running(peer, "sleeping", folder, exam, folder / "log") as server:
            yield Subject(server, pid_file)


def exam_of(image_size: Size, input_size: Size) -> Exam:
    """JPEGs of about (H, W), no two of the same size, and the answers of a model whose input is (h, w)."""
    height, width = image_size
    manifest = sleeping_manifest(input_size)
    logits = sleeping_logits(manifest.graph, manifest.num_classes)
    calls, answers = [], []
    with Image.open(_STREET) as street:
        for number in range(_NUM_IMAGES):
            size = (height - 3 * number, width - 4 * number)
            file = io.BytesIO()
            street.resize(size[::-1]).save(file, "JPEG", quality=90)
            calls.append(Call(file.getvalue(), {"Content-Type": "image/jpeg"}))
            answers.append(encode_label_png(labels_of(logits, size), manifest.palette))
    return Exam(calls, answers, calls[0])


def median_load(loads: Sequence[Load]) -> Load:
    """Each figure's median."""
    return Load(*(statistics.median(getattr(load, name) for load in loads) for name in Load.__slots__))
