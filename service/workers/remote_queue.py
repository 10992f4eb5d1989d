"""The queue of a model whose engine is in another process; see ``service.inference.image_queue``."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engines.base import Rows
from service.errors import EngineDown, ServiceError
from service.inference.batcher import expired
from service.inference.codec_threads import CodecJob
from service.inference.forecast import line_s
from service.inference.image_queue import BatchRow
from service.workers.channel import Channel
from service.workers.messages import MODEL, SUBMISSION, Kind
from service.workers.slots import Layout, Region


class RemoteQueue:
    """Sends the slots of one model to the engine process.

    Attributes:
        down: Reason why the engine does not work, one sentence; empty while it works.
        max_batch_size: Most images of a batch.
    """

    def __init__(
        self,
        channel: Channel,
        model: int,
        layout: Layout,
        *,
        max_batch_size: int,
        expected: Callable[[RemoteQueue], int],
        caller: Callable[[], bytes] = bytes,
    ) -> None:
        """Allocate the slots, and send them to the engine process.

        Args:
            channel: To the engine process.
            model: Its number there.
            layout: Of the slots.
            max_batch_size: Most images of a batch.
            expected: Number of the requests for this queue whose image has not reached it.
            caller: Identifies the request that calls, for the traces.
        """
        descriptor = Region.allocate(layout)
        try:
            self._region = Region(layout, descriptor)
            channel.send(Kind.REGION, MODEL.pack(model), descriptor)
        finally:
            os.close(descriptor)
        self.down = ""
        self.max_batch_size = max_batch_size
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._model = model
        self._expected = expected
        self._caller = caller
        self._slots = [RemoteSlot(self, number) for number in range(layout.slots)]
        # The slot that was used last is the next, so that few pages are touched.
        self._free = list(reversed(self._slots))
        self._waiting: deque[asyncio.Future[RemoteSlot]] = deque()

    @property
    def region(self) -> Region:
        """The memory of the slots."""
        return self._region

    @property
    def free_slots(self) -> int:
        """Slots that no image uses."""
        return len(self._free)

    @property
    def seconds_per_image(self) -> float:
        """See ``ImageQueue``."""
        return self._region.seconds_per_image

    @property
    def depth(self) -> int:
        """See ``ImageQueue``."""
        return self._region.depth

    @property
    def backlog(self) -> int:
        """See ``ImageQueue``."""
        return self._region.backlog

    def line_s(self, more: int) -> float:
        """See ``ImageQueue``."""
        region = self._region
        return line_s(
            region.depth + more,
            free_s=max(0.0, region.free_at - self._loop.time()),
            max_batch_size=self.max_batch_size,
            first_s=region.first_s,
            full_s=region.full_s,
        )

    def slot(self, deadline: float) -> _SlotScope:
        """See ``ImageQueue``."""
        return _SlotScope(self, deadline)

    def wake(self) -> None:
        """See ``ImageQueue``: the engine process reads the number, and is woken if it waits in vain."""
        self._region.expected = expected = self._expected(self)
        if not expected and self._region.is_waiting:
            self._channel.send(Kind.WAKE, MODEL.pack(self._model))

    def succeed(self, slot: int, generation: int, started: float, ended: float) -> None:
        """Receive the message that the output of a slot is ready."""
        self._slots[slot].answer(generation, (started, ended))

    def fail(self, slot: int, generation: int, error: ServiceError) -> None:
        """Receive the message that there will be no output."""
        self._slots[slot].answer(generation, error)

    def close(self, reason: str) -> None:
        """Note that the engine process is gone: fail waiting and new images with ``EngineDown``."""
        self.down = reason
        for slot in self._slots:
            slot.answer(slot.generation, EngineDown(reason, retry_after_s=1))
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(EngineDown(reason, retry_after_s=1))

    async def take(self, deadline: float) -> RemoteSlot:
        """Take a free slot; see ``slot``."""
        self.check()
        if self._free:
            return self._free.pop()
        waiter: asyncio.Future[RemoteSlot] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        timer = asyncio.get_running_loop().call_at(deadline, _expire, waiter)
        try:
            return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:  # cancelled with a slot in hand
                self.give_back(waiter.result())
            raise
        finally:
            timer.cancel()

    def give_back(self, slot: RemoteSlot) -> None:
        """Make a slot free for the next image."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(slot)
                return
        self._free.append(slot)

    def submit(self, slot: int, generation: int, deadline: float) -> None:
        """Send a slot to the engine."""
        # First, as the engine process must not wait for others because it still sees this one on its way.
        self._region.expected = self._expected(self)
        self._channel.send(Kind.SUBMIT, SUBMISSION.pack(self._model, slot, generation, deadline) + self._caller())

    def cancel(self, slot: int, generation: int) -> None:
        """Take a slot out of the engine's queue."""
        self._channel.send(Kind.CANCEL, SUBMISSION.pack(self._model, slot, generation, 0.0))

    def check(self) -> None:
        """Raises ``EngineDown`` if the engine does not work."""
        if self.down:
            raise EngineDown(self.down, retry_after_s=1)


class RemoteSlot:
    """One slot; see ``Slot``.

    It is free again when its block has ended, the engine process is done with it, and no job uses it.

    Attributes:
        generation: Number of its uses; messages about an earlier use are ignored.
    """

    def __init__(self, queue: RemoteQueue, number: int) -> None:
        self.generation = 0
        self._queue = queue
        self._number = number
        self._row: asyncio.Future[tuple[float, float]] | None = None
        self._with_engine = False
        self._jobs = 0
        self._in_use = False

    @property
    def image(self) -> NDArray[np.uint8]:
        """See ``Slot``."""
        return self._queue.region.image(self._number)

    @property
    def output(self) -> Rows:
        """The output, once it is ready."""
        return self._queue.region.output(self._number)

    async def run(self, deadline: float, *, on_start: Callable[[], None] = lambda: None) -> BatchRow:
        """See ``Slot``."""
        queue, number = self._queue, self._number
        queue.check()
        loop = asyncio.get_running_loop()
        self.generation = (self.generation + 1) & 0xFFFFFFFF
        queue.region.mark_started(number, started=False)
        self._row = row = loop.create_future()
        self._with_engine = True
        queued = time.perf_counter()
        queue.submit(number, self.generation, deadline)
        timer = loop.call_at(deadline, _expire, row)
        try:
            started, ended = await row
        except BaseException:
            if self._with_engine:
                queue.cancel(number, self.generation)
            if queue.region.has_started(number):
                on_start()
            raise
        finally:
            timer.cancel()
        on_start()
        return BatchRow(self.output, queued, started, ended)

    def hold(self, job: CodecJob[Any]) -> None:
        """See ``Slot``."""
        if job.is_running:
            self._jobs += 1
            job.on_end(self._job_ended)

    def answer(self, generation: int, answer: tuple[float, float] | ServiceError) -> None:
        """Take the answer of the engine process to a use of the slot."""
        if generation != self.generation or not self._with_engine:
            return
        self._with_engine = False
        row = self._row
        if row is not None and not row.done():
            if isinstance(answer, ServiceError):
                row.set_exception(answer)
            else:
                row.set_result(answer)
        self._free_if_unused()

    def begin(self) -> None:
        """Its block begins."""
        self._in_use = True

    def end(self) -> None:
        """Its block has ended."""
        self._in_use = False
        self._row = None
        self._free_if_unused()

    def _job_ended(self) -> None:
        self._jobs -= 1
        self._free_if_unused()

    def _free_if_unused(self) -> None:
        if not (self._in_use or self._with_engine or self._jobs):
            self._queue.give_back(self)


class _SlotScope:
    """The block of ``RemoteQueue.slot``."""

    def __init__(self, queue: RemoteQueue, deadline: float) -> None:
        self._queue = queue
        self._deadline = deadline
        self._slot: RemoteSlot | None = None

    async def __aenter__(self) -> RemoteSlot:
        self._slot = await self._queue.take(self._deadline)
        self._slot.begin()
        return self._slot

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._slot is not None
        self._slot.end()


def _expire(waiter: asyncio.Future[Any]) -> None:
    if not waiter.done():
        waiter.set_exception(expired())
