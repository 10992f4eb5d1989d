"""The HTTP app around a fake engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest

from service.http.app import create_app
from service.model_directory.manifest import Manifest
from service.settings import Settings
from tests.support.api import Api, Running, Serving, running_app
from tests.support.batcher_bench import Bench, Play, RemoteBench, play_on_bench
from tests.support.brightness_model import Infer
from tests.support.exchange import Exchange
from tests.support.fake_engine import FakeEngine
from tests.support.pictures import Solid, solid_png
from tests.support.worker_app import WorkerApp


@pytest.fixture(params=[Bench, RemoteBench], ids=["in process", "from a worker"])
def play(request: pytest.FixtureRequest) -> Play:
    """Plays on both implementations of the queue."""
    return partial(play_on_bench, bench=request.param)


@pytest.fixture
def play_in_process() -> Play:
    """Plays on the queue of an engine in the same process, where an image is a step of the event loop away."""
    return play_on_bench


@pytest.fixture
def engine(brightness_logits: Infer) -> Iterator[FakeEngine]:
    engine = FakeEngine(brightness_logits)
    yield engine
    engine.gate.set()


@pytest.fixture
def exchange() -> type[Exchange]:
    """Makes requests whose client can hang up."""
    return Exchange


@pytest.fixture
def running() -> Running:
    return running_app


@pytest.fixture(params=[False, True], ids=["in process", "from a worker"])
def serving(
    request: pytest.FixtureRequest,
    engine: FakeEngine,
    manifest: Manifest,
    running: Running,
    serving_in_process: Serving,
) -> Serving:
    """Serves the fake engine, in the same process and as a worker does."""

    def serve(*, warm: bool = True, **settings: Any) -> AbstractAsyncContextManager[Api]:
        if not request.param:
            return serving_in_process(warm=warm, **settings)
        options = Settings(**{"codec_threads": 2, "engine_timeout_s": 60, **settings})
        worker = WorkerApp(options, engine, manifest)
        worker.app.state.worker = worker
        return running(worker.app, warm=warm)

    return serve


@pytest.fixture
def serving_in_process(engine: FakeEngine, manifest: Manifest, running: Running) -> Serving:
    """Serves the fake engine in the same process alone, whose health is that of the engine."""

    def serve(*, warm: bool = True, **settings: Any) -> AbstractAsyncContextManager[Api]:
        options = Settings(**{"codec_threads": 2, "engine_timeout_s": 60, **settings})
        return running(create_app(options, engine, manifest), warm=warm)

    return serve


@pytest.fixture
async def api(serving: Serving) -> AsyncIterator[Api]:
    """An app with small limits."""
    async with serving(max_image_bytes=4096, max_image_pixels=100_000) as api:
        yield api


@pytest.fixture
def solid() -> Solid:
    return solid_png
