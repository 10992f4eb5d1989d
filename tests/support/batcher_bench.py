"""A batcher whose engine and clock the test holds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor, Future
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from service.inference.batcher import Batcher, DropReason
from service.inference.image_queue import BatchRow
from tests.support.fake_engine import POISON


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
        expects_more: Images are on their way, as the batcher sees it.
    """

    def __init__(self, **options: Any) -> None:
        self.engine, self.observer = ManualEngine(), Observer()
        self.expects_more = True
        self.batcher = Batcher(
            self.engine.infer,
            self.engine,
            input_size=(4, 4),
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


def play_on_bench(story: Callable[[Bench], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Play a story on a new bench, on a clock that jumps."""

    async def on_bench() -> None:
        await story(Bench(**options))

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(on_bench())
