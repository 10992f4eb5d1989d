"""The models of a worker, by its messages to the engine process and the supervisor."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.inference.admission import Admission
from service.inference.forecast import Forecast
from service.metrics import Metrics
from service.model_directory.manifest import Manifest
from service.settings import Settings
from service.workers.catalog_message import CatalogNews, EntryNews, ModelNews, StartState
from service.workers.channel import Channel, read_json, socket_pair
from service.workers.messages import SERIAL, Control, Kind
from service.workers.remote_models import RemoteModels
from service.workers.slots import Layout, Region

pytestmark = pytest.mark.anyio


class Worker:
    """A worker's models, with the supervisor and the engine process at the other ends.

    Attributes:
        models: Those of the worker.
        failures: What it reported to the supervisor.
        applied: Serials of the catalogs that it goes by.
    """

    def __init__(self) -> None:
        settings, metrics = Settings(), Metrics()
        supervisor, control = socket_pair()
        admission = Admission(capacity=1, max_pixels=1, timeout_s=1, forecast=Forecast(list[Any]), observer=metrics)
        self.models = RemoteModels(settings, metrics, admission, control=control, workers=1, on_orphaned=lambda: None)
        self.failures: list[dict[str, Any]] = []
        self.applied: list[int] = []
        ours, theirs = socket_pair()
        with theirs:
            socket.send_fds(supervisor, [bytes((Control.ENGINE,))], [theirs.fileno()])
        self._supervisor = Channel(supervisor, self._of_supervisor, lambda: None)
        self._engine = Channel(ours, self._of_engine, lambda: None)

    async def take(self, serial: int, news: CatalogNews) -> None:
        """Let the worker take a catalog, and wait until it has."""
        self._engine.send_json(Kind.CATALOG, {"serial": serial, "catalog": news.pack()})
        for _ in range(20):
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        await self.models.stop()
        self._supervisor.close()
        self._engine.close()

    def _of_supervisor(self, kind: int, fields: bytes, descriptor: int) -> None:
        if kind == Control.FAILED:
            self.failures.append(read_json(fields, descriptor))

    def _of_engine(self, kind: int, fields: bytes, descriptor: int) -> None:
        if kind == Kind.APPLIED:
            self.applied += SERIAL.unpack(fields)
        elif kind == Kind.CALL:
            number, _, (_, version) = read_json(fields, descriptor)
            self._engine.send_json(Kind.REPLY, {"id": number, "result": version})


@asynccontextmanager
async def connected() -> AsyncIterator[Worker]:
    worker = Worker()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.models.connect())
            yield worker
    finally:
        await worker.close()


@pytest.fixture
def catalog(manifest: Manifest) -> Callable[[StartState, int], CatalogNews]:
    def make(state: StartState, number: int) -> CatalogNews:
        serving = ModelNews(number, manifest, manifest.graph, "onnxruntime", 2, "")
        return CatalogNews("street", state, "", {"street": EntryNews("1", False, "", serving)})

    return make


def no_room(layout: Layout) -> int:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


async def test_slots_without_room_end_the_first_start(
    catalog: Callable[[StartState, int], CatalogNews], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Region, "allocate", no_room)
    async with connected() as worker:
        await worker.take(1, catalog("starting", 1))
        (failure,) = worker.failures
        assert failure["status"] == 2
        assert failure["message"] == (
            "a worker has no room for the slots of the models: Cannot allocate memory; raise --max-worker-bytes, or "
            "lower --max-requests-in-flight"
        )
        assert worker.applied == []


async def test_slots_without_room_leave_the_models_as_they_are(
    catalog: Callable[[StartState, int], CatalogNews],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with connected() as worker:
        await worker.take(1, catalog("ready", 1))
        with monkeypatch.context() as patch:
            patch.setattr(Region, "allocate", no_room)
            await worker.take(2, catalog("ready", 2))
            assert worker.models.serving().number == 1
        await worker.take(3, catalog("ready", 2))
        assert worker.models.serving().number == 2
        assert (worker.applied, worker.failures) == ([1, 3], [])
        assert [record.message[:50] for record in caplog.records] == [
            "a worker has no room for the slots of the models: "
        ]


async def test_a_load_is_answered_also_where_another_version_has_taken_over(
    catalog: Callable[[StartState, int], CatalogNews],
) -> None:
    async with connected() as worker:
        await worker.take(1, catalog("ready", 1))
        assert worker.models.serving().version == "1.2.3"
        assert (await worker.models.load("street", "7.0.0")).version == "7.0.0"
