"""The load on a service: each client waits for its answer, and what is not 200 counts apart."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from model_export.selfcheck_report.load import HOST, LoadError, ask, environment_of, percentile, running_service
from service.settings import Settings

STREET = Path(__file__).parents[3] / "models" / "example" / "street.jpg"


@contextmanager
def server(status: str) -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers every request with a status and two bytes; gives its port and the bodies that came."""
    bodies: list[bytes] = []
    started, loop = threading.Event(), asyncio.new_event_loop()
    port = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.split("content-length: ")[1].split("\r\n")[0])
                bodies.append(await reader.readexactly(length))
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def serve() -> None:
        nonlocal port
        listening = await asyncio.start_server(answer, HOST, 0)
        port = listening.sockets[0].getsockname()[1]
        started.set()
        await stop.wait()
        listening.close()

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait()
    try:
        yield port, bodies
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def test_every_answer_is_counted_with_its_time() -> None:
    with server("200 OK") as (port, bodies):
        result = ask(port, b"a picture", clients=3, seconds=0.05)
    assert result.clients == 3
    assert result.answers == {200: len(bodies) - 3}  # the first answer to each client is not counted
    assert result.images_per_s == pytest.approx(result.answers[200] / result.seconds)
    assert 0 < result.p50_ms <= result.p99_ms < 1e3 * result.seconds
    assert all(b'name="file"' in body and b"a picture" in body for body in bodies)


def test_refusals_are_no_images() -> None:
    with server("503 Service Unavailable") as (port, _):
        result = ask(port, b"", clients=1, seconds=0.02)
    assert set(result.answers) == {503}
    assert result.images_per_s == 0
    assert math.isnan(result.p50_ms)


def test_a_service_that_ends_is_told_with_its_last_lines() -> None:
    settings = environment_of({"engine": "nonsense", "precision": None})
    assert settings == {"ECENET_ENGINE": "nonsense"}
    with pytest.raises(LoadError, match=r"the service was not ready: .*nonsense"), running_service(settings, 60):
        pass


def test_a_service_is_not_refused_by_what_guards_the_one_of_this_machine(
    shared_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {"API_KEYS": f"ci:{'k' * 32}", "RATE_LIMIT_PER_S": "1", "RATE_LIMIT_BURST": "2"}.items():
        monkeypatch.setenv(f"ECENET_{name}", text)
    settings = environment_of({"model_dir": shared_model_dir, "engine": "onnxruntime"})
    with running_service(settings, 60) as port:
        assert set(ask(port, STREET.read_bytes(), clients=2, seconds=0.1).answers) == {200}


def test_the_service_reads_the_settings_as_they_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"input_size": (384, 512), "max_batch_size": 8, "engine_dir": Path("engines")}
    for name, text in environment_of(given).items():
        monkeypatch.setenv(name, text)
    settings = Settings()
    assert {name: getattr(settings, name) for name in given} == given


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 3.0), (0.99, 4.0), (1.0, 4.0)])
def test_percentile_is_one_of_the_values(share: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], share) == expected
