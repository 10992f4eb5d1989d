"""Batcher: gathers images into batches; bounded, oldest first, with deadlines, without those of departed clients.

No HTTP and no model: images go to a function that takes a batch. A batch forms when the engine is free, so that under
load requests gather while the batch before them runs; the window only matters to an idle engine, and only while more
images are on their way. An engine that takes several batches at once gets the next one early if it is full,
as waiting could add nothing to it: its images are copied while the batch before it runs.

An image that cannot meet its deadline, judged by the latest batches, is not run: it would only delay the others.

An engine that keeps a batch for longer than ``engine_timeout_s``, or fails on everything, is down: waiting and new
images fail at once. A batch that comes back after all brings it up again.

Deadlines are on the event loop's clock. Durations are not measured with it, as uvloop's clock counts whole
milliseconds.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from service.engines.base import Rows
from service.errors import DeadlineExceeded, Draining, EngineDown, EngineFailure, Overloaded, ServiceError
from service.inference.batch_observers import BatchObserver, BatchTrace, DropReason
from service.inference.batch_times import BatchTimes
from service.inference.forecast import line_s
from service.inference.image_queue import BatchRow
from service.inference.local_slot import LocalSlot
from service.inference.watched_engine import InferInto, WatchedEngine, text_of
from service.inference.work import Work, in_time

logger = logging.getLogger(__name__)

_SMOOTHING = 0.2
# After so many images in a row on which the engine failed, a black one shows whether the images were the reason.
_SUSPICIOUS_FAILURES = 3
_STOPPED = "the batcher has stopped; the log has the reason"


class Batcher:
    """Gathers images into batches, runs them, and watches over the engine.

    Attributes:
        input_size: (h, w) of the images.
        seconds_per_image: Of the engine's latest batches, smoothed.
    """

    def __init__(
        self,
        infer: InferInto,
        threads: Executor,
        *,
        input_size: tuple[int, int],
        output_shape: tuple[int, ...],
        output_dtype: DTypeLike = np.float32,
        max_batch_size: int,
        max_queued_images: int,
        window_s: float,
        observer: BatchObserver,
        engine_timeout_s: float = math.inf,
        batches_at_once: int = 1,
        expects_more: Callable[[], bool] = lambda: True,
        seconds_per_image: float = 0.0,
        batch_seconds: Mapping[int, float] | None = None,
        trace: BatchTrace | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepare, on an event loop; ``start`` begins to run batches.

        Args:
            infer: Runs a batch; called in ``threads``.
            threads: Where the engine runs, a thread for each of ``batches_at_once``.
            input_size: (h, w) of the images, for ``slot``.
            output_shape: Of one image, for ``slot``.
            output_dtype: Of one image, for ``slot``.
            max_batch_size: Most images of a batch.
            max_queued_images: Most images that wait.
            window_s: Longest wait of the oldest image for others to join it.
            observer: Counts batches, failures and drops.
            engine_timeout_s: Seconds after which an engine that keeps a batch is down.
            batches_at_once: Batches that the engine takes at once.
            expects_more: True while an image may be on its way to the queue; without one the window is skipped. After
                a change to False, ``wake`` must be called.
            seconds_per_image: Estimate until the first batch is measured.
            batch_seconds: Measured seconds of batches by their size.
            trace: Traces each batch and the requests in it.
            clock: Measures durations.
        """
        self.seconds_per_image = seconds_per_image
        self._engine = WatchedEngine(infer, threads, engine_timeout_s, self._fail_all, batches_at_once)
        self.input_size = input_size
        self._output_shape = output_shape
        self._output_dtype = output_dtype
        self._max_batch_size = max_batch_size
        self._max_queued_images = max_queued_images
        self._window_s = window_s
        self._observer = observer
        self._engine_timeout_s = engine_timeout_s
        self._max_in_flight = batches_at_once
        self._expects_more = expects_more
        self._trace = trace
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._times = BatchTimes(batch_seconds)
        self._run_ends = 0.0
        self._last_end = -math.inf
        self._queue: deque[Work] = deque()
        self._in_flight: list[Sequence[Work]] = []
        self._running: list[Sequence[Work]] = []
        self._failures = 0
        self._accepting = True
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    @property
    def down(self) -> str:
        """Reason why the engine does not work, one sentence; empty while it works."""
        return self._engine.down

    @property
    def max_batch_size(self) -> int:
        """Most images of a batch."""
        return self._max_batch_size

    @property
    def depth(self) -> int:
        """Images that wait."""
        return len(self._queue)

    @property
    def backlog(self) -> int:
        """Images that wait or are being run."""
        return len(self._queue) + sum(len(batch) for batch in self._in_flight)

    def line_s(self, more: int) -> float:
        """See ``ImageQueue``."""
        return line_s(
            self.depth + more,
            free_s=self.free_at - self._loop.time(),
            max_batch_size=self._max_batch_size,
            first_s=self.first_s,
            full_s=self.full_s,
        )

    @property
    def free_at(self) -> float:
        """Time at which the batches that have been formed will be done, on the event loop's clock."""
        ahead = self._in_flight[len(self._running) :]
        return self._engine_free_at + sum(self._times.expected(len(batch)) for batch in ahead)

    @property
    def _engine_free_at(self) -> float:
        """Time at which the batches that the engine has will be done, on the event loop's clock."""
        return max(self._loop.time(), self._run_ends)

    @property
    def first_s(self) -> float:
        """Seconds that the engine will hardly exceed for one image; 0 as long as nothing is known."""
        return self._times.safe(1)

    @property
    def full_s(self) -> float:
        """Mean seconds of a full batch; 0 as long as nothing is known."""
        return self._times.expected(self._max_batch_size)

    @property
    def is_running(self) -> bool:
        """True while batches are run; only a bug ends that before ``close``."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin to run batches."""
        self._task = asyncio.create_task(self._run(), name="batcher")

    def wake(self) -> None:
        """Check again if a batch should form: ``expects_more`` may have changed."""
        self._changed.set()

    @asynccontextmanager
    async def slot(self, deadline: float) -> AsyncIterator[LocalSlot]:  # noqa: ARG002
        """See ``ImageQueue``; there is always one."""
        yield LocalSlot(self)

    async def submit(
        self, image: NDArray[np.uint8], deadline: float, *, on_start: Callable[[], None] = lambda: None
    ) -> BatchRow:
        """Queue an image (h, w, 3) uint8 of the engine's input size, and wait for its row; see ``Slot.run``."""
        output = np.empty(self._output_shape, self._output_dtype)
        work = self.enqueue(image, output, deadline, on_start=on_start)
        try:
            async with asyncio.timeout_at(deadline):
                return await work.row
        except TimeoutError:
            raise expired() from None
        finally:
            self.withdraw(work)

    def enqueue(
        self,
        image: NDArray[np.uint8],
        output: Rows,
        deadline: float,
        *,
        on_start: Callable[[], None] = lambda: None,
        caller: Any = None,
    ) -> Work:
        """Queue an image whose row the caller awaits or watches itself; ``withdraw`` takes it out.

        Args:
            image: (h, w, 3) uint8, the size that the engine takes.
            output: Gets the engine's output for it.
            deadline: Time after which it is not run, on the event loop's clock.
            on_start: Called when the engine starts on the image.
            caller: Request that it belongs to, for the traces; the current one if not given.

        Raises:
            Overloaded, Draining, EngineDown: See ``Slot.run``.
        """
        if not self._accepting:
            raise Draining("the service is stopping")
        if self.down:
            raise EngineDown(self.down, retry_after_s=1)
        if len(self._queue) >= self._max_queued_images:
            wait_s = self.backlog * self.seconds_per_image
            detail = f"{self._max_queued_images} images are waiting for the model, which is the limit"
            raise Overloaded(detail, retry_after_s=wait_s)
        row = asyncio.get_running_loop().create_future()
        if caller is None and self._trace is not None:
            caller = self._trace.caller()
        work = Work(image, output, deadline, _now() + self._window_s, self._clock(), on_start, row, caller)
        self._queue.append(work)
        self._idle.clear()
        self._changed.set()
        return work

    def withdraw(self, work: Work) -> bool:
        """Take work whose caller has left out of the queue; gives False where a batch has taken it already."""
        work.is_abandoned = True
        # Looked for first: the error of ``remove`` would spell out the work, its image and its row.
        if work not in self._queue:
            return False
        self._queue.remove(work)
        self._observer.work_dropped(_drop_reason(work))
        self._note_idle()
        return True

    async def drain(self, timeout_s: float) -> None:
        """Accept nothing more, finish queued work within ``timeout_s``, then fail the remainder with ``Draining``."""
        self._accepting = False
        self._changed.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        self._give_up(Draining("the service stopped before this request was run"), "drained")

    async def close(self) -> None:
        """Stop running batches; the engine's current call is not waited for."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def _give_up(self, error: ServiceError, reason: DropReason) -> None:
        """Fail everything that waits or is being run."""
        for work in (*itertools.chain(*self._in_flight), *self._queue):
            work.fail(error)
        for _ in self._queue:
            self._observer.work_dropped(reason)
        self._queue.clear()

    def _fail_all(self, reason: str) -> None:
        self._give_up(EngineDown(reason, retry_after_s=1), "engine-down")

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._wait_for_batch()
                    self._begin_batch(group)
                    self._note_idle()
        except Exception:  # a bug; this task has no caller that would report it
            logger.exception("the batcher has stopped")
            self._engine.mark_down(_STOPPED)

    def _begin_batch(self, group: asyncio.TaskGroup) -> None:
        """Run the next batch; a method, as the loop should hold no batch: its rows can hold the engine's memory."""
        if batch := self._take():
            self._in_flight.append(batch)
            group.create_task(self._run_batch(batch))

    async def _wait_for_batch(self) -> None:
        """Wait until a batch should form."""
        while not self._should_form():
            until = self._queue[0].window_end if self._queue and not self._in_flight else None
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._changed.wait()

    def _should_form(self) -> bool:
        """Decide if the engine takes a batch, and waiting would not make it larger."""
        if not self._queue or len(self._in_flight) >= self._max_in_flight:
            return False
        if len(self._queue) >= self._max_batch_size:
            return True
        if self._in_flight:
            return False
        return not self._accepting or self._queue[0].window_end <= _now() or not self._expects_more()

    def _take(self) -> list[Work]:
        """Take the next batch from the queue, oldest first, without images that are unwanted or would be late."""
        start = self.free_at
        batch: list[Work] = []
        left_out: list[Work] = []
        while self._queue and len(batch) < self._max_batch_size and len(left_out) < self._max_batch_size:
            candidates = [*batch, *self._next_wanted(self._max_batch_size - len(batch), start)]
            batch = in_time(candidates, start, self._times.safe)
            left_out += (work for work in candidates if work not in batch)
        self._queue.extendleft(reversed(left_out))
        return batch

    def _next_wanted(self, number: int, start: float) -> list[Work]:
        """Take so many images from the queue that would be done in time alone."""
        wanted: list[Work] = []
        while self._queue and len(wanted) < number:
            wanted += self._wanted([self._queue.popleft()], start + self._times.safe(1))
        return wanted

    def _wanted(self, batch: Iterable[Work], until: float) -> list[Work]:
        """Keep the work that is waited for until then; drop the rest, and fail what has expired or will."""
        wanted = []
        for work in batch:
            if work.is_wanted and work.deadline > _now() and work.deadline >= until:
                wanted.append(work)
            else:
                self._drop(work)
        return wanted

    def _drop(self, work: Work) -> None:
        if work.is_wanted and work.deadline > _now() and not self._in_flight:
            self._times.relax()
        self._observer.work_dropped(_drop_reason(work))
        work.fail(expired())

    async def _run_batch(self, batch: Sequence[Work]) -> None:
        try:
            await self._run_images(batch)
        except Exception:
            self._engine.mark_down(_STOPPED)
            raise
        finally:
            self._in_flight.remove(batch)
            self._changed.set()
            self._note_idle()

    async def _run_images(self, batch: Sequence[Work]) -> None:
        """Run a batch when the engine is free, without those who left meanwhile."""
        async with self._engine.free:
            wanted = self._still_in_time(batch)
            if not wanted:
                return
            started = self._clock()
            failure = await self._attempt(wanted, started)
            ended = self._clock()
        if failure is not None:
            await self._recover(wanted, failure)
            return
        self._answer(wanted, started, ended)

    def _still_in_time(self, batch: Sequence[Work]) -> list[Work]:
        """Drop images from a batch that nobody wants any more, or that would be late in this place."""
        start = self._engine_free_at
        wanted = self._wanted(batch, start)
        kept = in_time(wanted, start, self._times.safe)
        for work in wanted:
            if work not in kept:
                self._drop(work)
        return kept

    async def _attempt(self, batch: Sequence[Work], started: float) -> Exception | None:
        """Run the engine; gives the exception that it raised, if any: each request gets an answer."""
        for work in batch:
            work.on_start()
            self._observer.image_started(started - work.queued_at)
        self._run_ends = self._engine_free_at + self._times.expected(len(batch))
        self._running.append(batch)
        try:
            with self._traced(batch):
                await self._engine.run([work.image for work in batch], [work.output for work in batch])
        except Exception as error:
            return error
        finally:
            self._running.remove(batch)
            self._run_ends = _now() + sum(self._times.expected(len(other)) for other in self._running)
        return None

    def _traced(self, batch: Sequence[Work]) -> AbstractContextManager[None]:
        return nullcontext() if self._trace is None else self._trace.batch([work.caller for work in batch])

    async def _recover(self, batch: Sequence[Work], error: Exception) -> None:
        """Run the images of a failed batch one by one, so that only the one at fault fails."""
        self._observer.batch_failed()
        logger.error("the engine failed on a batch of %d", len(batch), exc_info=error)
        if len(batch) == 1:
            batch[0].fail(EngineFailure(f"the model failed on this image: {text_of(error)}"))
            self._failures += 1
            if self._failures >= _SUSPICIOUS_FAILURES:
                await self._engine.probe(np.zeros_like(batch[0].image), np.empty_like(batch[0].output))
                self._failures = 0
            return
        for work in batch:
            if not work.row.done():
                await self._run_images([work])

    def _answer(self, batch: Sequence[Work], started: float, ended: float) -> None:
        self._failures = 0
        # Of several batches at once, one has the engine when those before it have ended.
        infer_s = ended - max(started, self._last_end)
        self._last_end = ended
        if infer_s <= self._engine_timeout_s:
            self._note_speed(infer_s / len(batch))
            self._times.note(len(batch), infer_s)
        self._observer.batch_finished(len(batch), infer_s)
        for work in batch:
            if not work.row.done():
                work.row.set_result(BatchRow(work.output, work.queued_at, started, ended))

    def _note_speed(self, seconds: float) -> None:
        previous = self.seconds_per_image or seconds
        self.seconds_per_image = previous + _SMOOTHING * (seconds - previous)

    def _note_idle(self) -> None:
        if not self._queue and not self._in_flight:
            self._idle.set()


def _drop_reason(work: Work) -> DropReason:
    """Name the reason why work was not run."""
    if work.row.done() and not work.row.cancelled():
        return "engine-down"
    return "cancelled" if work.deadline > _now() and not work.is_wanted else "expired"


def expired() -> DeadlineExceeded:
    """The error of an image whose time was over before its row was ready."""
    return DeadlineExceeded("the time of the request was over before the model answered")


def _now() -> float:
    return asyncio.get_running_loop().time()
