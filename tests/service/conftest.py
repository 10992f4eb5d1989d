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


@pytest.fixture
def serving(engine: FakeEngine, manifest: Manifest, running: Running) -> Serving:
    """Serves the fake engine."""

    def serve(*, warm: bool = True, **settings: Any) -> AbstractAsyncContextManager[Api]:
        app = create_app(Settings(**{"codec_threads": 2, "engine_timeout_s": 60, **settings}), engine, manifest)
        return running(app, warm=warm)

    return serve


@pytest.fixture
async def api(serving: Serving) -> AsyncIterator[Api]:
    """An app with small limits."""
    async with serving(max_image_bytes=4096, max_image_pixels=100_000) as api:
        yield api


@pytest.fixture
def solid() -> Solid:
    return solid_png
