"""A serving process resolves no name and connects to nobody, its native libraries included."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import plain_http
from tests.support.limits import HANG_S

ROOT = Path(__file__).resolve().parents[2]
STREET = ROOT / "models" / "example" / "street.jpg"
# ONNX Runtime 1.32 calls home 9 s after its first session, measured on the slower of our machines.
_WATCHED_S = 14

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="compiles a library that is preloaded: needs gcc")


@pytest.fixture(scope="module")
def spy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that notes network calls."""
    library = tmp_path_factory.mktemp("spy") / "network_spy.so"
    source = ROOT / "tests" / "e2e" / "network_spy.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    return library


def environment(spy: Path, log: Path) -> dict[str, str]:
    """Environment of a user's shell, without our own variable."""
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    return kept | {"LD_PRELOAD": str(spy), "NETWORK_SPY_LOG": str(log)}


@contextmanager
def serving(engine: str, spy: Path, log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves the bundled model, and its URL."""
    command = [sys.executable, "-m", "service", "--port", "0", "--engine", engine]
    with subprocess.Popen(command, cwd=ROOT, env=environment(spy, log), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.kill()


def test_the_spy_notes_names_and_addresses(spy: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = (
        "import contextlib, socket\n"
        "with contextlib.suppress(OSError): socket.getaddrinfo('host.invalid', 80)\n"
        "with contextlib.suppress(OSError): socket.create_connection(('127.0.0.9', 9), 1)\n"
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.8', 9))\n"
    )
    subprocess.run([sys.executable, "-c", program], env=environment(spy, log), check=True)
    noted = log.read_text().splitlines()
    assert {"resolve host.invalid", "connect 127.0.0.9", "send 127.0.0.8"} <= set(noted)


def test_serving_processes_call_nobody(spy: Path, tmp_path: Path) -> None:
    """Both engines are watched at the same time: most of it is waiting."""
    logs = {engine: tmp_path / engine for engine in ("onnxruntime", "openvino")}
    with ExitStack() as stack:
        services = [stack.enter_context(serving(engine, spy, log)) for engine, log in logs.items()]
        ended = time.monotonic() + _WATCHED_S
        while time.monotonic() < ended:
            for _, url in services:
                assert plain_http.post(f"{url}/segment", files={"file": STREET.read_bytes()}).status_code == 200
            time.sleep(4)
        for process, _ in services:
            process.send_signal(signal.SIGTERM)
            assert process.wait(HANG_S) == 0
    for engine, log in logs.items():
        # The address that it listens on is resolved, which asks nobody.
        noted = set(log.read_text().splitlines()) if log.exists() else set()
        assert noted <= {"resolve 127.0.0.1", "resolve -"}, engine
