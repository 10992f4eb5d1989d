"""The service under load: a separate process on a free port, and clients that each wait for their answer.

A client is a connection with one request after the other, in plain HTTP/1.1, which costs the machine little beside
what it measures.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from service.model_directory.sizes import Size, format_size

HOST = "127.0.0.1"
_POLL_S = 0.1
_BOUNDARY = "ecenet-selfcheck-boundary"
_STOP_TIMEOUT_S = 60.0
# Settings under which a test of this machine would be refused, or could not listen where it asks.
_NOT_INHERITED = (
    *("API_KEYS", "API_KEYS_FILE", "RATE_LIMIT_PER_S", "RATE_LIMIT_BURST"),
    *("TLS_CERT", "TLS_KEY", "CONFIG", "PORT", "HOST"),
)


class LoadError(RuntimeError):
    """A service that does not get ready; the text has the last lines that it said."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Answers of a service to some clients.

    Attributes:
        clients: Connections that asked at the same time.
        seconds: How long they asked.
        answers: Answers per HTTP status.
        images_per_s: Answers with status 200 per second.
        p50_ms: Median time to an answer with status 200; NaN without one.
        p99_ms: 99% of these times are not longer; NaN without one.
    """

    clients: int
    seconds: float
    answers: dict[int, int]
    images_per_s: float
    p50_ms: float
    p99_ms: float


@contextmanager
def running_service(settings: Mapping[str, str], timeout_s: float) -> Iterator[int]:
    """A service with the environment's settings and these, e.g. ``{"ECENET_ENGINE": "tensorrt"}``; gives its port.

    Raises:
        LoadError: It ended, or was not ready in time.
    """
    port = _free_port()
    inherited = {name: value for name, value in os.environ.items() if name not in _names(_NOT_INHERITED)}
    environment = {**inherited, **settings, "ECENET_HOST": HOST, "ECENET_PORT": str(port)}
    command = [sys.executable, "-m", "service"]
    with (
        tempfile.TemporaryFile("w+", errors="replace") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process,  # noqa: S603
    ):
        try:
            _until_ready(process, log, port, timeout_s)
            yield port
        finally:
            _end(process)


def ask(port: int, image: bytes, clients: int, seconds: float) -> LoadResult:
    """Ask for label maps of an image from some clients at once, for some seconds after a first answer to each."""
    return asyncio.run(_ask(port, image, clients, seconds))


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` of the values do not exceed; NaN of none."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)] if values else float("nan")


async def _ask(port: int, image: bytes, clients: int, seconds: float) -> LoadResult:
    request = _request(image)
    connections = await asyncio.gather(*(asyncio.open_connection(HOST, port) for _ in range(clients)))
    await asyncio.gather(*(_answer(reader, writer, request) for reader, writer in connections))
    started = time.perf_counter()
    answers: list[tuple[int, float]] = []

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while time.perf_counter() - started < seconds:
            sent = time.perf_counter()
            status = await _answer(reader, writer, request)
            answers.append((status, time.perf_counter() - sent))

    await asyncio.gather(*(client(*connection) for connection in connections))
    elapsed = time.perf_counter() - started
    for _, writer in connections:
        writer.close()
    good = [duration * 1e3 for status, duration in answers if status == http.client.OK]
    return LoadResult(
        clients=clients,
        seconds=elapsed,
        answers=dict(sorted(Counter(status for status, _ in answers).items())),
        images_per_s=len(good) / elapsed,
        p50_ms=statistics.median(good) if good else float("nan"),
        p99_ms=percentile(good, 0.99),
    )


def _request(image: bytes) -> bytes:
    """A multipart request for the label map of an image."""
    part = (f"--{_BOUNDARY}", 'Content-Disposition: form-data; name="file"; filename="image.jpg"', "", "")
    body = "\r\n".join(part).encode() + image + f"\r\n--{_BOUNDARY}--\r\n".encode()
    lines = (
        "POST /segment?format=labels HTTP/1.1",
        f"Host: {HOST}",
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*lines, "", ""]).encode() + body


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Send a request and read its answer to the end; gives the status."""
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    await reader.readexactly(int(headers.get("content-length", "0")))
    return int(head[0].split()[1])


def _until_ready(process: subprocess.Popen[bytes], log: TextIO, port: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not _is_ready(port):
        if process.poll() is not None or time.monotonic() > deadline:
            _end(process)
            log.seek(0)
            raise LoadError(f"the service was not ready: {' | '.join(log.readlines()[-3:]) or 'it said nothing'}")
        time.sleep(_POLL_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _names(settings: tuple[str, ...]) -> set[str]:
    return {f"ECENET_{name}" for name in settings}


def environment_of(options: Mapping[str, str | int | Path | Size | None]) -> dict[str, str]:
    """Settings by their names as variables of the environment, without those that are None."""
    given = {f"ECENET_{name.upper()}": value for name, value in options.items() if value is not None}
    return {name: format_size(value) if isinstance(value, tuple) else str(value) for name, value in given.items()}
