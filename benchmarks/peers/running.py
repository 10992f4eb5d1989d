"""A server under test: started, ready when it has answered rightly, and all of its processes ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks import processes
from benchmarks.peers.peers import Call, Peer
from benchmarks.peers.work import ROOT, EngineName, Work, images

_START_S = 180
# An environment variable that all processes of a server inherit, also those that leave its session.
_MARK = "PEERS_RUN"
_NUM_IMAGES = 16


class PeerError(RuntimeError):
    """A server that did not start; the text holds the end of its output."""


@dataclass(frozen=True, slots=True)
class Exam:
    """Requests to send, and the answers to expect.

    Attributes:
        calls: Requests for images that all differ.
        answers: The PNG of each, byte for byte.
        broken: A request for a JPEG that is cut off.
    """

    calls: Sequence[Call]
    answers: Sequence[bytes]
    broken: Call


@dataclass(frozen=True, slots=True)
class RunningPeer:
    """A server that is ready.

    Attributes:
        peer: The server.
        url: Where it takes images.
        popen: Its first process.
        mark: The mark by which the others are found.
    """

    peer: Peer
    url: str
    popen: subprocess.Popen[bytes]
    mark: str

    def pids(self) -> list[int]:
        """All of its processes."""
        return [pid for folder in Path("/proc").glob("[0-9]*") if self._owns(pid := int(folder.name))]

    def cpu_s(self) -> float:
        """CPU seconds that its living processes have used."""
        return self._sum(processes.cpu_s)

    def memory_mib(self) -> float:
        """Memory of its processes; what several share counts once."""
        return self._sum(processes.pss_mib)

    def _sum(self, measure: Callable[[int], float]) -> float:
        total = 0.0
        for pid in self.pids():
            with suppress(OSError):  # it has just ended
                total += measure(pid)
        return total

    def _owns(self, pid: int) -> bool:
        with suppress(OSError):
            variables = Path(f"/proc/{pid}/environ").read_bytes()
            return f"{_MARK}={self.mark}\0".encode() in variables and not processes.is_zombie(pid)
        return False


def exam_of(peer: Peer, engine_name: EngineName) -> Exam:
    """The images, and their answers by the functions themselves."""
    files, answers = _files_and_answers(engine_name)
    return Exam([peer.call_of(file) for file in files], answers, peer.call_of(files[0][: len(files[0]) // 2]))


@cache
def _files_and_answers(engine_name: EngineName) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """The same for every server."""
    work = Work(engine_name)
    files = images(_NUM_IMAGES)
    answers = []
    for file in files:
        prepared = work.prepare(file)
        answers.append(work.finish(work.infer([prepared.image])[0], prepared.size))
    work.engine.close()
    return files, answers


@contextmanager
def running(peer: Peer, engine_name: EngineName, environments: Path, exam: Exam, log: Path) -> Iterator[RunningPeer]:
    """Start a server on a free port of the loopback; at the end, none of its processes is left.

    Raises:
        PeerError: It did not answer an image rightly in time.
    """
    mark = uuid.uuid4().hex
    port = _free_port()
    with processes.unwinding_on_sigterm(), log.open("wb") as output:
        popen = subprocess.Popen(
            peer.command(environments, port),
            cwd=ROOT,
            env=processes.environment(PEERS_ENGINE=engine_name, **{_MARK: mark}),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        server = RunningPeer(peer, f"http://127.0.0.1:{port}{peer.path}", popen, mark)
        try:
            _until_ready(server, exam, log)
            yield server
        finally:
            for pid in server.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            popen.wait()


def _until_ready(server: RunningPeer, exam: Exam, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    request = urllib.request.Request(server.url, exam.calls[0].body, exam.calls[0].headers)
    while time.monotonic() < deadline and server.popen.poll() is None:
        with suppress(OSError), urllib.request.urlopen(request, timeout=30) as response:
            if server.peer.answer_of(response.read()) == exam.answers[0]:
                return
        time.sleep(0.1)
    said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise PeerError(f"{server.peer.name} has not answered an image rightly in {_START_S} s:\n{said}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
