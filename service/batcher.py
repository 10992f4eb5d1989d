"""Requests to batches: bounded, oldest first, with deadlines, without the requests of departed clients.

No HTTP and no model: images go to a function that takes a batch. A batch forms when the engine is free, so that under
load requests gather while the batch before them runs; the window only matters to an idle engine. Deadlines are on the
event loop's clock. Durations are not measured with it, as uvloop's clock counts whole milliseconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.engines.base import Rows
from service.errors import DeadlineExceeded, Draining, EngineFailure, Overloaded, ServiceError

logger = logging.getLogger(__name__)

Infer = Callable[[NDArray[np.uint8]], Rows]
DropReason = Literal["cancelled", "expired", "drained"]
_SMOOTHING = 0.2


class BatchObserver(Protocol):
    """Who wants to know what the batcher does; the metrics."""

    def batch_finished(self, size: int, seconds: float) -> None:
        """The engine has run ``size`` images, which took it ``seconds``."""

    def batch_failed(self) -> None:
        """The engine has failed on a batch."""

    def work_dropped(self, reason: DropReason) -> None:
        """An image has left the queue without having been run."""


@dataclass(frozen=True, slots=True)
class BatchRow:
    """What a batch gave for one image.

    Attributes:
        output: What the engine gave: logits (K, h, w) float32, or labels (h, w) uint8.
        queue_s: Seconds from ``submit`` to the start of the batch.
        infer_s: Seconds that the batch took.
    """

    output: Rows
    queue_s: float
    infer_s: float


@dataclass(eq=False, slots=True)
class _Work:
    image: NDArray[np.uint8]
    deadline: float
    window_end: float
    queued_at: float
    row: asyncio.Future[BatchRow]

    def fail(self, error: ServiceError) -> None:
        if not self.row.done():
            self.row.set_exception(error)


class Batcher:
    """Gathers images into batches and runs them one batch at a time."""

    def __init__(
        self,
        infer: Infer,
        thread: Executor,
        *,
        max_batch_size: int,
        max_queue_size: int,
        window_s: float,
        observer: BatchObserver,
    ) -> None:
        """Prepare; ``start`` begins to run batches.

        Args:
            infer: Images (B, h, w, 3) uint8 to B rows; called in ``thread``, never twice at once.
            thread: Where the engine runs; its one thread keeps the event loop free.
            max_batch_size: Images that ``infer`` takes at once.
            max_queue_size: Images that may wait.
            window_s: Longest wait of the oldest image for others to join it.
            observer: Told of batches, failures and drops.
        """
        self.seconds_per_image = 0.0
        self._infer = infer
        self._thread = thread
        self._max_batch_size = max_batch_size
        self._max_queue_size = max_queue_size
        self._window_s = window_s
        self._observer = observer
        self._queue: deque[_Work] = deque()
        self._running: Sequence[_Work] = ()
        self._busy_since: float | None = None
        self._accepting = True
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    @property
    def depth(self) -> int:
        """Images that wait."""
        return len(self._queue)

    @property
    def busy_s(self) -> float:
        """Seconds since the engine got the batch that it has not answered yet; 0 when it is idle."""
        return 0.0 if self._busy_since is None else _now() - self._busy_since

    @property
    def is_running(self) -> bool:
        """Whether batches are run; only a bug can end that before ``close``."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin to run batches."""
        self._task = asyncio.create_task(self._run(), name="batcher")

    async def submit(self, image: NDArray[np.uint8], deadline: float) -> BatchRow:
        """Queue an image and wait for its row. To cancel the caller takes the image out of the queue.

        Args:
            image: (h, w, 3) uint8, the size that the engine takes.
            deadline: When nobody wants the result any more, on the event loop's clock.

        Raises:
            Overloaded: The queue is full.
            Draining: The batcher no longer accepts work, or gave this work up.
            DeadlineExceeded: The deadline has passed; work that was still queued never runs.
            EngineFailure: The engine failed on this image, alone.
        """
        work = self._enqueue(image, deadline)
        try:
            async with asyncio.timeout_at(deadline):
                return await work.row
        except TimeoutError:
            raise _expired() from None
        finally:
            self._withdraw(work)

    async def drain(self, timeout_s: float) -> None:
        """Accept nothing more, finish the rest within ``timeout_s``, then fail what is left with ``Draining``."""
        self._accepting = False
        self._changed.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        for work in (*self._running, *self._queue):
            work.fail(Draining("the service stopped before this request was run"))
        for _ in self._queue:
            self._observer.work_dropped("drained")
        self._queue.clear()

    async def close(self) -> None:
        """Stop running batches; the engine's current call is not waited for."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def _enqueue(self, image: NDArray[np.uint8], deadline: float) -> _Work:
        if not self._accepting:
            raise Draining("the service is stopping")
        if len(self._queue) >= self._max_queue_size:
            wait_s = len(self._queue) * self.seconds_per_image
            raise Overloaded(f"{self._max_queue_size} images wait already", retry_after_s=wait_s)
        row = asyncio.get_running_loop().create_future()
        work = _Work(image, deadline, _now() + self._window_s, time.perf_counter(), row)
        self._queue.append(work)
        self._idle.clear()
        self._changed.set()
        return work

    def _withdraw(self, work: _Work) -> None:
        """Take work whose caller has left out of the queue, if it is still there."""
        with suppress(ValueError):
            self._queue.remove(work)
            self._observer.work_dropped("expired" if work.deadline <= _now() else "cancelled")
            self._note_idle()

    async def _run(self) -> None:
        while True:
            await self._wait_for_batch()
            self._running = self._take()
            await self._run_batch(self._running)
            self._running = ()
            self._note_idle()

    async def _wait_for_batch(self) -> None:
        """Wait until the queue holds a full batch, or its oldest image has waited for the window."""
        while len(self._queue) < self._max_batch_size:
            until = self._queue[0].window_end if self._queue else None
            if until is not None and (until <= _now() or not self._accepting):
                return
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._changed.wait()

    def _take(self) -> list[_Work]:
        """The next batch, oldest first, without work that has expired."""
        batch: list[_Work] = []
        while self._queue and len(batch) < self._max_batch_size:
            work = self._queue.popleft()
            if self._is_wanted(work):
                batch.append(work)
        return batch

    def _is_wanted(self, work: _Work) -> bool:
        """Whether somebody waits for work that has not run; expired work is failed."""
        if work.row.done():
            return False
        if work.deadline <= _now():
            self._observer.work_dropped("expired")
            work.fail(_expired())
            return False
        return True

    async def _run_batch(self, batch: Sequence[_Work]) -> None:
        if not batch:
            return
        self._busy_since = _now()
        started = time.perf_counter()
        try:
            rows = await asyncio.get_running_loop().run_in_executor(
                self._thread, _infer_images, self._infer, [work.image for work in batch]
            )
        except Exception as error:  # whatever it is, each request gets an answer
            await self._recover(batch, error)
        else:
            self._answer(batch, rows, started)
        finally:
            self._busy_since = None

    async def _recover(self, batch: Sequence[_Work], error: Exception) -> None:
        """Run the images of a failed batch one by one, so that only the guilty one fails."""
        self._observer.batch_failed()
        logger.error("the engine failed on a batch of %d", len(batch), exc_info=error)
        if len(batch) == 1:
            batch[0].fail(EngineFailure(f"the model failed on this image: {str(error) or type(error).__name__}"))
            return
        for work in batch:
            if self._is_wanted(work):
                await self._run_batch([work])

    def _answer(self, batch: Sequence[_Work], rows: Rows, started: float) -> None:
        infer_s = time.perf_counter() - started
        self._note_speed(infer_s / len(batch))
        self._observer.batch_finished(len(batch), infer_s)
        for work, row in zip(batch, rows, strict=True):
            if not work.row.done():
                work.row.set_result(BatchRow(row, started - work.queued_at, infer_s))

    def _note_speed(self, seconds: float) -> None:
        previous = self.seconds_per_image or seconds
        self.seconds_per_image = previous + _SMOOTHING * (seconds - previous)

    def _note_idle(self) -> None:
        if not self._queue and not self._running:
            self._idle.set()


def _infer_images(infer: Infer, images: list[NDArray[np.uint8]]) -> Rows:
    """Run in the engine's thread: (h, w, 3) each to B rows."""
    rows = infer(np.stack(images))
    if len(rows) != len(images):
        raise ValueError(f"the engine gave {len(rows)} outputs for {len(images)} images")
    return rows


def _expired() -> DeadlineExceeded:
    return DeadlineExceeded("the time that the request had passed before the model answered")


def _now() -> float:
    return asyncio.get_running_loop().time()
