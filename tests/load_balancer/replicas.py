"""Real services with the brightness model, that can be killed, stopped, frozen and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.load_balancer.balancer import free_port
from tests.load_balancer.patience import until

ROOT = Path(__file__).resolve().parents[2]
SERVICE = ("-m", "service")
# Waits for ``SLOW_S`` seconds before each batch.
SLOW = ("-c", "import runpy; runpy.run_path('tests/load_balancer/slow_server.py', run_name='__main__')")


class Replica:
    """One service at an address that it keeps when it is started again.

    Attributes:
        address: Host and port.
    """

    def __init__(
        self,
        model_dir: Path,
        *options: str,
        host: str = "127.0.0.1",
        port: int | None = None,
        program: Sequence[str] = SERVICE,
        enter: Sequence[str] = (),
        **variables: str,
    ) -> None:
        """Prepare.

        Args:
            model_dir: What to serve.
            options: Further options of the service.
            host: Where to listen.
            port: Where to listen; a free one if not given.
            program: What Python runs.
            enter: Command before Python's.
            variables: Further variables of the environment.
        """
        port = port or free_port()
        self.address = f"{host}:{port}"
        engine = ("--engine", "onnxruntime", "--engine-threads", "1", "--codec-threads", "1")
        where = ("--host", host, "--port", str(port), "--model-dir", str(model_dir), "--log-level", "warning")
        self._command = [*enter, sys.executable, *program, *where, *engine, *options]
        self._environment = {**os.environ, **variables}
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def popen(self) -> subprocess.Popen[bytes]:
        assert self._popen is not None, f"{self.address} was not started"
        return self._popen

    @property
    def is_running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def start(self) -> None:
        """Start; ``until_ready`` waits for it."""
        assert not self.is_running
        self._popen = subprocess.Popen(self._command, cwd=ROOT, env=self._environment, stdout=subprocess.PIPE)

    def until_ready(self) -> None:
        """Wait for the line that says so."""
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline().decode()
        assert "is ready at" in line, f"{self.address} has ended with status {self.popen.wait()}"

    def kill(self) -> None:
        """kill -9, and wait for the end of all of its processes."""
        children = self._children()
        with self.popen as popen:
            popen.kill()
        until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), f"{self.address} is gone")

    def stop(self) -> None:
        """SIGTERM, and wait for the end of the drain."""
        with self.popen as popen:
            popen.terminate()
            assert popen.wait(60) == 0

    def freeze(self) -> None:
        """Nothing of it runs; the kernel still takes its connections."""
        self._send_to_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after ``freeze``."""
        self._send_to_all(signal.SIGCONT)

    def _send_to_all(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor first, then to its children."""
        os.kill(self.popen.pid, number)
        for child in self._children():
            os.kill(child, number)

    def _children(self) -> list[int]:
        pid = self.popen.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        return [int(child) for child in children.read_text(encoding="ascii").split()] if children.exists() else []

    def metric(self, name: str, *labels: str) -> float:
        """Sum of the samples of a metric that have these labels, ``reason="overloaded"``, among theirs."""
        lines = httpx.get(self.url + "/metrics", timeout=60).text.splitlines()
        samples = [line for line in lines if line.startswith((name + "{", name + " "))]
        assert samples, f"{self.address} has no metric {name}"
        return sum(float(line.rpartition(" ")[2]) for line in samples if all(label in line for label in labels))

    def until_busy(self) -> None:
        """Wait until a request is inside."""
        until(lambda: self.metric("ecenet_in_flight") > 0, f"a request is inside {self.address}")


@contextmanager
def fleet(replicas: Sequence[Replica]) -> Iterator[Sequence[Replica]]:
    """Start replicas together, and end what runs of them afterwards."""
    try:
        whole(replicas)
        yield replicas
    finally:
        for replica in replicas:
            if replica.is_running:
                replica.kill()


def whole(replicas: Sequence[Replica]) -> None:
    """Start those that do not run, let the frozen go on."""
    absent = [replica for replica in replicas if not replica.is_running]
    for replica in absent:
        replica.start()
    for replica in replicas:
        replica.resume()
    for replica in absent:
        replica.until_ready()
