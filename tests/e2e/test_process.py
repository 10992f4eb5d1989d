"""The real process: started on a free port, used by real clients, ended by real signals."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from service.model_directory.manifest import GRAPH_NAME, GraphInfo, Manifest, file_sha256, write_manifest
from tests.support import plain_http
from tests.support.limits import HANG_S
from tests.support.pictures import Png

ROOT = Path(__file__).resolve().parents[2]
SERVICE = ["-m", "service"]
GATED = ["-c", "import runpy; runpy.run_path('tests/e2e/gated_server.py', run_name='__main__')"]


class Process:
    """A running service.

    Attributes:
        banner: The lines that it printed when it was ready.
        url: Where it listens.
    """

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.popen = popen
        self.banner = [self.line() for _ in range(4)]
        self.url = self.banner[0].rpartition(" ")[2]

    def line(self) -> str:
        """The next line of its standard output."""
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().decode().rstrip()

    def release(self, batches: int = 1) -> None:
        """Let a gated engine run."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(b"x" * batches)
        self.popen.stdin.flush()

    def until_unready(self) -> None:
        while plain_http.get(self.url + "/readyz").status_code != 503:
            pass

    def until_metric(self, series: str, value: int) -> None:
        name, _, labels = series.partition("{")
        line = re.compile(rf"^{name}\b.*{re.escape(labels.rstrip('}'))}.* {value}\.0$", re.MULTILINE)
        while not line.search(plain_http.get(self.url + "/metrics").text):
            pass

    def until_in_flight(self, count: int) -> None:
        self.until_metric("ecenet_in_flight", count)

    def send(self, data: bytes, announced: int | None = None) -> socket.socket:
        """Send a request by hand; ``announced`` is the length that its header states."""
        length = len(data) if announced is None else announced
        head = f"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n\r\n"
        address = urlsplit(self.url)
        client = socket.create_connection((address.hostname, address.port))
        client.sendall(head.encode() + data)
        return client

    def segment(self, data: bytes) -> httpx.Response:
        return plain_http.post(self.url + "/segment", files={"file": ("photo.png", data)})


@contextmanager
def running(program: list[str], *arguments: str, runner: tuple[str, ...] = (), **variables: str) -> Iterator[Process]:
    """A program of Python with environment variables of its own, started by ``runner`` if one is given.

    Its one worker is the one that a test asks: another would hear of a signal or of the engine a moment later.
    """
    options = ("--port", "0", "--workers", "1", "--engine-timeout-s", "60")
    command = [*runner, sys.executable, *program, *options, *arguments]
    environment = {**os.environ, **variables}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as popen:
        try:
            yield Process(popen)
        finally:
            popen.kill()


def failing(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a service that cannot start."""
    command = [sys.executable, *SERVICE, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=False)


@pytest.fixture
def gated() -> Iterator[Process]:
    with running(GATED, "--drain-delay-s", "3") as process:
        yield process


@pytest.fixture
def background() -> Iterator[Callable[..., Future[httpx.Response]]]:
    """Runs a call in a thread."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit


def test_process_tells_how_to_use_it_serves_and_ends_with_status_0(tiny_model_dir: Path, png: Png) -> None:
    with running(SERVICE, "--model-dir", str(tiny_model_dir), "--drain-delay-s", "0") as process:
        assert "is ready at http://127.0.0.1:" in process.banner[0]
        assert "brightness 1.2.3: 3 classes, input 64x32, onnxruntime" in process.banner[1]
        assert f"'{process.url}/segment?format=overlay' -o overlay.png" in process.banner[2]
        picture = Path(process.banner[2].partition("file=@")[2].partition(" ")[0])
        assert process.segment(picture.read_bytes()).status_code == 200
        response = process.segment(png())
        assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(HANG_S) == 0


def test_request_in_flight_at_sigterm_is_answered(
    gated: Process, png: Png, background: Callable[..., Future[httpx.Response]]
) -> None:
    inside = background(gated.segment, png())
    assert gated.line() == "batch 1"
    gated.popen.send_signal(signal.SIGTERM)
    gated.until_unready()
    gated.release()
    response = inside.result()
    assert (response.status_code, response.headers["connection"]) == (200, "close")
    assert gated.popen.wait(HANG_S) == 0


def test_request_that_is_not_done_in_the_drain_time_is_answered_503(
    png: Png, background: Callable[..., Future[httpx.Response]]
) -> None:
    with running(GATED, "--drain-delay-s", "0", "--drain-timeout-s", "0.2") as process:
        stuck = background(process.segment, png())
        assert process.line() == "batch 1"
        process.popen.send_signal(signal.SIGTERM)
        assert stuck.result().status_code == 503
        assert stuck.result().json()["type"] == "draining"
        assert process.popen.wait(HANG_S) == 0


def test_second_signal_ends_the_process_at_once(
    gated: Process, png: Png, background: Callable[..., Future[httpx.Response]]
) -> None:
    inside = background(gated.segment, png())
    assert gated.line() == "batch 1"
    gated.popen.send_signal(signal.SIGTERM)
    gated.until_unready()
    gated.popen.send_signal(signal.SIGTERM)
    assert gated.popen.wait(HANG_S) == 128 + signal.SIGTERM
    with pytest.raises(httpx.TransportError):
        inside.result()


def test_work_of_sixty_clients_that_hang_up_is_dropped(
    gated: Process, png: Png, background: Callable[..., Future[httpx.Response]]
) -> None:
    first = background(gated.segment, png())
    assert gated.line() == "batch 1"
    clients = [gated.send(png()) for _ in range(60)]
    gated.until_metric("ecenet_queue_depth", 60)
    for client in clients:
        client.close()
    gated.until_in_flight(1)
    good = background(gated.segment, png())
    gated.until_in_flight(2)
    gated.release(2)
    assert (first.result().status_code, good.result().status_code) == (200, 200)
    assert gated.line() == "batch 1"
    metrics = plain_http.get(gated.url + "/metrics").text
    assert 'ecenet_requests_cancelled_total{stage="queue"} 60.0\n' in metrics
    assert 'ecenet_images_dropped_total{model="gated",reason="cancelled"} 60.0\n' in metrics
    assert 'ecenet_batch_size_sum{model="gated"} 2.0\n' in metrics


def test_client_that_hangs_up_during_the_upload_leaves_nothing_behind(gated: Process, png: Png) -> None:
    client = gated.send(png()[:40], announced=len(png()))
    gated.until_in_flight(1)
    client.close()
    gated.until_metric('ecenet_requests_cancelled_total{stage="read"}', 1)
    gated.until_in_flight(0)


@pytest.mark.parametrize(
    ("stage", "function", "batches"),
    [("decode", "open_image", 0), ("post", "labels_of", 1), ("encode", "encode_answer", 1)],
)
def test_client_that_hangs_up_is_noticed_while_its_stage_runs(
    stage: str, function: str, batches: int, png: Png
) -> None:
    with running(GATED, "--drain-delay-s", "0", GATED_FUNCTION=function) as process:
        client = process.send(png())
        if batches:
            assert process.line() == "batch 1"
            process.release()
        assert process.line() == function
        client.close()
        process.until_metric(f'ecenet_requests_cancelled_total{{stage="{stage}"}}', 1)
        process.until_in_flight(0)
        process.release()
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(HANG_S) == 0
        assert process.line() == ""  # no batch since


def test_stuck_engine_is_told_to_everybody_within_seconds_and_the_process_stays(
    png: Png, background: Callable[..., Future[httpx.Response]]
) -> None:
    with running(GATED, "--drain-delay-s", "0", "--engine-timeout-s", "0.5") as process:
        started = time.monotonic()
        requests = [background(process.segment, png()) for _ in range(3)]
        for request in requests:
            assert (request.result().status_code, request.result().json()["type"]) == (503, "engine-down")
        assert time.monotonic() - started < 30
        # The worker hears of the engine's state a moment after its requests have failed.
        while (answer := plain_http.get(process.url + "/readyz")).status_code == 200:
            pass
        assert (answer.status_code, answer.json()["type"]) == (503, "engine-down")
        assert plain_http.get(process.url + "/healthz").status_code == 200  # the supervisor mends it
        assert process.segment(png()).status_code == 503
        assert process.popen.poll() is None
        process.release(2)
        while plain_http.get(process.url + "/readyz").status_code == 503:
            pass
        assert process.segment(png()).status_code == 200
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(HANG_S) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_process_starts_ends_it_without_a_word(number: signal.Signals, tiny_model_dir: Path) -> None:
    command = [sys.executable, *SERVICE, "--port", "0", "--model-dir", str(tiny_model_dir)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while not _catches(process.pid, signal.SIGTERM):
            assert process.poll() is None
        process.send_signal(number)
        assert process.communicate(timeout=HANG_S) == (b"", None)
    assert process.returncode == 0


def _catches(pid: int, number: signal.Signals) -> bool:
    found = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return found is not None and bool(int(found[1], 16) >> number - 1 & 1)


def namespace() -> tuple[str, ...]:
    """The command that makes a program process 1 of a namespace of its own; skips the test where that is forbidden."""
    unshare = shutil.which("unshare")
    command = (str(unshare), *(() if os.geteuid() == 0 else ("--map-root-user",)), "--pid", "--fork", "--kill-child")
    if unshare is None or subprocess.run([*command, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no unshare, or no permission to make a namespace of processes")
    return command


def child(process: subprocess.Popen[bytes]) -> int:
    """The only child of a process."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


def test_process_1_of_a_container_drains_on_sigterm(
    png: Png, background: Callable[..., Future[httpx.Response]]
) -> None:
    with running(GATED, "--drain-delay-s", "3", runner=namespace()) as process:
        inside = background(process.segment, png())
        assert process.line() == "batch 1"
        service = child(process.popen)
        assert "NSpid:\t" + f"{service}\t1\n" in Path(f"/proc/{service}/status").read_text()
        os.kill(service, signal.SIGTERM)
        process.until_unready()
        process.release()
        assert inside.result().status_code == 200
        assert process.popen.wait(HANG_S) == 0


def test_process_1_of_a_container_leaves_on_the_second_signal() -> None:
    with running(GATED, "--drain-delay-s", "20", runner=namespace()) as process:
        service = child(process.popen)
        os.kill(service, signal.SIGTERM)
        process.until_unready()
        os.kill(service, signal.SIGINT)
        assert process.popen.wait(HANG_S) == 128 + signal.SIGINT


def test_of_a_hundred_at_once_each_is_answered_and_those_over_the_limit_immediately(gated: Process, png: Png) -> None:
    async def crowd() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=gated.url, limits=limits, timeout=HANG_S) as client:
            tasks = [
                asyncio.create_task(client.post("/segment", files={"file": ("photo.png", png())})) for _ in range(100)
            ]
            while sum(task.done() for task in tasks) < 36:
                await asyncio.wait([task for task in tasks if not task.done()], return_when=asyncio.FIRST_COMPLETED)
            refused = [task.result() for task in tasks if task.done()]
            assert {response.status_code for response in refused} == {503}
            assert all(int(response.headers["retry-after"]) >= 1 for response in refused)
            gated.release(64)
            return list(await asyncio.gather(*tasks))

    statuses = [response.status_code for response in asyncio.run(crowd())]
    assert (statuses.count(200), statuses.count(503)) == (64, 36)


def test_taken_port_is_told_in_one_line(tiny_model_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = failing("--port", str(port), "--model-dir", str(tiny_model_dir))
    holder = result.stderr.partition("use; ")[2].partition(" listens")[0]
    assert holder == "another process" or holder.startswith(f"process {os.getpid()} (")
    assert result.returncode == 1
    assert result.stderr == (
        f"ecenet-serve: cannot listen on 127.0.0.1 port {port}: Address already in use; {holder} listens there; "
        f"choose another with --port {port + 1}, or a free one with --port 0\n"
    )


def test_wrong_setting_is_told_in_one_line() -> None:
    result = failing("--max-batch-size", "1000")
    assert result.returncode == 2
    assert result.stderr.startswith("ecenet-serve: --max-batch-size (ECENET_MAX_BATCH_SIZE) is '1000'")
    assert result.stderr.count("\n") == 1


def test_folder_without_a_model_is_told_in_one_line(tmp_path: Path) -> None:
    result = failing("--port", "0", "--model-dir", str(tmp_path))
    assert result.returncode == 1
    reason = "neither it nor a folder in it has a manifest.json"
    assert result.stderr == f"ecenet-serve: {tmp_path} is not a model directory: {reason}\n"


def test_model_that_cannot_be_loaded_ends_the_process_with_status_1(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / GRAPH_NAME).write_bytes(b"no graph")
    digest = file_sha256(tmp_path / GRAPH_NAME)
    graph = GraphInfo(GRAPH_NAME, digest, (32, 64))
    write_manifest(tmp_path, Manifest("broken", "1", "none", manifest.classes, (graph,)))
    result = failing("--port", "0", "--model-dir", str(tmp_path))
    assert result.returncode == 1
    told = result.stderr.splitlines()[-1]
    assert told.startswith(f"ecenet-serve: onnxruntime cannot load {tmp_path / GRAPH_NAME}: ")
    assert "Traceback" not in result.stderr
