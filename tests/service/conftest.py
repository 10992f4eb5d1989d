"""A batcher on a bench whose engine and clock the test holds, and the HTTP app around a fake engine."""

from __future__ import annotations

import asyncio
import io
import re
import selectors
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image
from starlette.types import Message, Scope

from service.http.app import create_app
from service.inference.batcher import Batcher, BatchRow, DropReason
from service.inference.pipeline import Pipeline
from service.model_directory.manifest import GraphInfo, Manifest
from service.runtime import Runtime
from service.settings import Settings

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

LABEL = re.compile(r'\w+="[^"]*"')

# Brightness of images on which the fake engines fail.
POISON = 201


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer as soon as there is nothing else to do."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.now


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            pytest.fail("everything waits for something that never comes")
        self._loop.now += max(0.0, timeout)
        return super().select(0)


class ManualEngine(Executor):
    """Both the engine and its thread: batches wait until the test runs them.

    Attributes:
        batches: The images of each batch that was run, by value.
        outputs: Rows to give, whatever was asked for.
        is_broken: Whether every batch fails.
        handed: Set when a batch waits to be run.
    """

    def __init__(self) -> None:
        self.outputs: int | None = None
        self.is_broken = False
        self.batches: list[list[int]] = []
        self.handed = asyncio.Event()
        self._jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._jobs.append((future, lambda: fn(*args, **kwargs)))
        self.handed.set()
        return future

    @property
    def is_busy(self) -> bool:
        return bool(self._jobs)

    def run(self) -> None:
        """Run the batch that waits."""
        future, job = self._jobs.pop(0)
        self.handed.clear()
        try:
            future.set_result(job())
        except Exception as error:
            future.set_exception(error)

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Twice the value of each image; fails on ``POISON``."""
        values = images[:, 0, 0, 0]
        self.batches.append(values.tolist())
        if self.is_broken:
            raise RuntimeError("broken")
        if POISON in values:
            raise RuntimeError("poisoned")
        rows = values.astype(np.float32).reshape(-1, 1, 1, 1) * 2
        return rows if self.outputs is None else np.resize(rows, (self.outputs, 1, 1, 1))


class Observer:
    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.failures = 0
        self.drops: list[str] = []
        self.waits: list[float] = []

    def image_started(self, queue_s: float) -> None:
        self.waits.append(queue_s)

    def batch_finished(self, size: int, seconds: float) -> None:
        self.sizes.append(size)

    def batch_failed(self) -> None:
        self.failures += 1

    def work_dropped(self, reason: DropReason) -> None:
        self.drops.append(reason)


class Bench:
    """A batcher of at most 4 images, 6 waiting, a window of 10 s, with its engine and observer.

    Attributes:
        somebody_comes: What the batcher is told of images on their way.
    """

    def __init__(self, **options: Any) -> None:
        self.engine, self.observer = ManualEngine(), Observer()
        self.somebody_comes = True
        self.batcher = Batcher(
            self.engine.infer,
            self.engine,
            max_batch_size=4,
            max_queued_images=6,
            window_s=10.0,
            observer=self.observer,
            somebody_comes=lambda: self.somebody_comes,
            **options,
        )
        self.batcher.start()

    def submit(
        self, value: int, deadline: float = 1000.0, on_start: Callable[[], None] = lambda: None
    ) -> asyncio.Task[BatchRow]:
        image = np.full((4, 4, 3), value, np.uint8)
        return asyncio.create_task(self.batcher.submit(image, deadline, on_start=on_start))

    async def until_busy(self) -> None:
        await self.engine.handed.wait()

    async def run_until_done(self, rows: Iterable[asyncio.Task[BatchRow]]) -> None:
        """Run batch after batch until every row is there."""
        while not all(row.done() for row in rows):
            await self.until_busy()
            self.engine.run()
            await self.settle()

    async def settle(self) -> None:
        """Let every task go as far as it can."""
        for _ in range(20):
            await asyncio.sleep(0)

    @property
    def now(self) -> float:
        """The jumping clock, in seconds since the start."""
        return asyncio.get_running_loop().time()


@pytest.fixture
def play() -> Callable[..., None]:
    """Plays a story on a bench of its own, which may get options for its batcher, on a clock that jumps."""

    async def on_bench(story: Callable[[Bench], Coroutine[Any, Any, None]], options: dict[str, Any]) -> None:
        await story(Bench(**options))

    def play(story: Callable[[Bench], Coroutine[Any, Any, None]], **options: Any) -> None:
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.run(on_bench(story, options))

    return play


class FakeEngine:
    """Runs when its gate is open; fails on images of brightness ``POISON``."""

    name = "fake"
    graph = GraphInfo("model.onnx", "0" * 64, (32, 64))
    num_classes = 3
    max_batch_size = 8
    warm_up_sizes = (1,)

    def __init__(self, logits: Infer) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.batch_sizes: list[int] = []
        self._logits = logits
        self.gate.set()

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.entered.set()
        assert self.gate.wait(20)
        self.batch_sizes.append(len(images))
        if (images == POISON).all((1, 2, 3)).any():
            raise RuntimeError("poisoned")
        return self._logits(images)

    def close(self) -> None:
        pass

    def shut(self) -> None:
        """Close the gate, and forget what has run."""
        self.gate.clear()
        self.entered.clear()
        self.batch_sizes.clear()

    async def until_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 20)


class Api:
    """A client of an app with the fake engine, and what the tests ask of its answers."""

    def __init__(self, app: FastAPI, http: httpx.AsyncClient) -> None:
        self.app = app
        self.http = http
        self.runtime: Runtime = app.state.runtime

    async def post(self, data: bytes, **parameters: str) -> httpx.Response:
        headers = {"Content-Type": "image/png"}
        return await self.http.post("/segment", params=parameters, content=data, headers=headers)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers=headers)

    @property
    def pipeline(self) -> Pipeline:
        return self.runtime.pipeline()

    @property
    def batcher(self) -> Batcher:
        return self.runtime.models.serving().batcher

    async def metric(self, series: str) -> float:
        """Sum of the series of a name that have the labels named, of which there must be one."""
        name, _, labels = series.partition("{")
        wanted = set(LABEL.findall(labels))
        lines = (await self.get("/metrics")).text.splitlines()
        found = [line for line in lines if re.match(rf"{name}[{{ ]", line) and wanted <= set(LABEL.findall(line))]
        assert found, series
        return sum(float(line.rpartition(" ")[2]) for line in found)

    async def until_queued(self, count: int) -> None:
        while await self.metric("ecenet_queue_depth") != count:  # noqa: ASYNC110  the metric is what is tested
            await asyncio.sleep(0)

    @staticmethod
    def pixels(response: httpx.Response) -> NDArray[np.uint8]:
        """Samples of a PNG that was the answer."""
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "image/png"
        return np.asarray(Image.open(io.BytesIO(response.content)))

    @staticmethod
    def check_problem(response: httpx.Response, status: int, slug: str, *words: str) -> dict[str, Any]:
        """Check the body of an error; gives it."""
        problem: dict[str, Any] = response.json()
        assert response.status_code == problem["status"] == status
        assert response.headers["content-type"] == "application/problem+json"
        assert problem["type"] == slug
        assert problem["request_id"] == response.headers["x-request-id"]
        assert problem["title"]
        assert problem["instance"] == response.request.url.path
        assert all(word in problem["detail"] for word in words), problem["detail"]
        return problem


class Exchange:
    """One request at the level of ASGI, whose client can hang up; if not ``whole``, before the end of the body."""

    def __init__(
        self, app: FastAPI, headers: dict[str, str], body: bytes = b"", *, whole: bool = True, path: str = "/segment"
    ) -> None:
        self.status = 0
        self.received = 0
        self.left = asyncio.Event()
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._body = body
        self._whole = whole
        self._path = path

    async def run(self) -> None:
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": self._headers,
            "client": ("test", 1),
            "server": ("test", 80),
        }
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        self.received += 1
        if self.received == 1:
            return {"type": "http.request", "body": self._body, "more_body": not self._whole}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.status = message.get("status", self.status)


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
def running() -> Callable[..., AbstractAsyncContextManager[Api]]:
    """Starts and stops an app; ``warm=False`` does not wait for the model."""

    @asynccontextmanager
    async def run(app: FastAPI, *, warm: bool = True) -> AsyncIterator[Api]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as http,
        ):
            if warm:
                await app.state.runtime.started.wait()
            yield Api(app, http)

    return run


@pytest.fixture
def serving(
    engine: FakeEngine, manifest: Manifest, running: Callable[..., AbstractAsyncContextManager[Api]]
) -> Callable[..., AbstractAsyncContextManager[Api]]:
    """Serves with some settings; ``warm=False`` does not wait for the model."""

    def serve(*, warm: bool = True, **settings: Any) -> AbstractAsyncContextManager[Api]:
        app = create_app(Settings(**{"codec_threads": 2, "engine_timeout_s": 60, **settings}), engine, manifest)
        return running(app, warm=warm)

    return serve


@pytest.fixture
async def api(serving: Callable[..., AbstractAsyncContextManager[Api]]) -> AsyncIterator[Api]:
    """An app with small limits."""
    async with serving(max_image_bytes=4096, max_image_pixels=100_000) as api:
        yield api


@pytest.fixture
def solid() -> Callable[[int], bytes]:
    """Makes a PNG of one brightness."""

    def make(level: int) -> bytes:
        stream = io.BytesIO()
        Image.new("RGB", (64, 32), (level, level, level)).save(stream, "PNG")
        return stream.getvalue()

    return make
