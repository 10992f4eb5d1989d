"""A batcher whose engine and clock the test holds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor, Future
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import unpack_error
from service.inference.batch_observers import DropReason
from service.inference.batcher import Batcher
from service.inference.image_queue import BatchRow
from service.inference.watched_engine import copying
from service.workers.channel import Channel, read_json, socket_pair
from service.workers.messages import RESULT, Kind
from service.workers.remote_queue import RemoteQueue
from service.workers.slots import Layout
from service.workers.worker_link import WorkerLink
from tests.support.fake_engine import POISON


def output_of(row: BatchRow) -> float:
    """Twice the value of the image, as the engine on the bench computes it."""
    return float(row.output.item())


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
        events = super().select(0)
        if events or timeout == 0:
            return events
        if timeout is None:
            pytest.fail("everything waits for something that never comes")
        self._loop.now += max(0.0, timeout)
        return events


class ManualEngine(Executor):
    """Both the engine and its thread: batches wait until the test runs them.

    Attributes:
        batches: The images of each batch that was run, by value.
        outputs: Rows to give, whatever was asked for.
        is_broken: Whether every batch fails.
        handed: Set when a batch waits to be run.
        handed_over: Batches that were given to the engine.
    """

    def __init__(self) -> None:
        self.outputs: int | None = None
        self.is_broken = False
        self.batches: list[list[int]] = []
        self.handed = asyncio.Event()
        self.handed_over = 0
        self._jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._jobs.append((future, lambda: fn(*args, **kwargs)))
        self.handed_over += 1
        self.handed.set()
        return future

    @property
    def is_busy(self) -> bool:
        return bool(self._jobs)

    def run(self) -> None:
        """Run the batch that waits."""
        future, job = self._jobs.pop(0)
        if not self._jobs:
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
        self.seconds: list[float] = []
        self.failures = 0
        self.drops: list[str] = []
        self.waits: list[float] = []

    def image_started(self, queue_s: float) -> None:
        self.waits.append(queue_s)

    def batch_finished(self, size: int, seconds: float) -> None:
        self.sizes.append(size)
        self.seconds.append(seconds)

    def batch_failed(self) -> None:
        self.failures += 1

    def work_dropped(self, reason: DropReason) -> None:
        self.drops.append(reason)


class Bench:
    """A batcher of at most 4 images, 6 waiting, a window of 10 s, with its engine and observer.

    Attributes:
        expects_more: Images are on their way, as the batcher sees it.
    """

    def __init__(self, **options: Any) -> None:
        self.engine, self.observer = ManualEngine(), Observer()
        self.expects_more = True
        self.batcher = Batcher(
            copying(self.engine.infer),
            self.engine,
            input_size=(4, 4),
            output_shape=(1, 1, 1),
            max_batch_size=4,
            max_queued_images=6,
            window_s=10.0,
            observer=self.observer,
            expects_more=lambda: self.expects_more,
            **options,
        )
        self.batcher.start()

    def submit(
        self, value: int, deadline: float = 1000.0, on_start: Callable[[], None] = lambda: None
    ) -> asyncio.Task[BatchRow]:
        image = np.full((4, 4, 3), value, np.uint8)
        return asyncio.create_task(self.batcher.submit(image, deadline, on_start=on_start))

    def close(self) -> None:
        """Let go of what the test does not."""

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


class Play(Protocol):
    """Plays a story on a bench of its own, which may get options for its batcher, on a clock that jumps."""

    def __call__(self, story: Callable[[Bench], Coroutine[Any, Any, None]], **options: Any) -> None: ...


class RemoteBench(Bench):
    """The same bench, with its images sent through shared memory and a channel, as from a worker.

    Attributes:
        queue: The worker's end.
        link: The engine process's end.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        layout = Layout(slots=16, input_size=(4, 4), output_shape=(1, 1, 1), output_dtype=np.dtype(np.float32))
        ours, theirs = socket_pair()
        self.link = WorkerLink(theirs, _BenchHost(self.batcher), lambda _: layout.slots)
        self._channel = Channel(ours, self._receive, lambda: self.queue.close("the engine process has ended"))
        self.queue = RemoteQueue(self._channel, 1, layout, max_batch_size=4, expected=lambda _: int(self.expects_more))

    def submit(
        self, value: int, deadline: float = 1000.0, on_start: Callable[[], None] = lambda: None
    ) -> asyncio.Task[BatchRow]:
        async def run() -> BatchRow:
            async with self.queue.slot(deadline) as slot:
                slot.image[:] = value
                row = await slot.run(deadline, on_start=on_start)
                return replace(row, output=row.output.copy())

        return asyncio.create_task(run())

    async def settle(self) -> None:
        for _ in range(60):
            await asyncio.sleep(0)

    def close(self) -> None:
        self._channel.close()
        self.link.close()

    def _receive(self, kind: int, fields: bytes, descriptor: int) -> None:
        if kind == Kind.OUTPUT:
            for _, slot, generation, started, ended in RESULT.iter_unpack(fields):
                self.queue.succeed(slot, generation, started, ended)
        else:
            assert kind == Kind.FAILURE
            _, slot, generation, error = read_json(fields, descriptor)
            self.queue.fail(slot, generation, unpack_error(error))


class _BenchHost:
    """An engine process with one model; see ``EngineHost``."""

    def __init__(self, batcher: Batcher) -> None:
        graph = SimpleNamespace(
            input_size=(4, 4), output="logits", logits_type="float32", output_shape=lambda *_: (1, 1, 1, 1)
        )
        manifest = SimpleNamespace(num_classes=1)
        self._model: Any = SimpleNamespace(queue=batcher, graph=graph, manifest=manifest, engine=None)

    def model(self, number: int) -> Any:
        return self._model if number == 1 else None

    def caller(self, trace: bytes) -> None:
        assert trace == b""

    def queue_changed(self, number: int) -> None: ...

    async def call(self, method: str, arguments: list[Any]) -> Any:
        raise NotImplementedError

    def link_changed(self) -> None: ...

    def link_closed(self, link: WorkerLink) -> None: ...


def play_on_bench(
    story: Callable[[Bench], Coroutine[Any, Any, None]], *, bench: type[Bench] = Bench, **options: Any
) -> None:
    """Play a story on a new bench, on a clock that jumps."""

    async def on_bench() -> None:
        on = bench(**options)
        try:
            await story(on)
        finally:
            on.close()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(on_bench())
