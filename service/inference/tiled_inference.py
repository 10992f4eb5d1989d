"""Tiled inference: windows of a large image through the batcher, one image at a time, if its time suffices."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from service.errors import EngineFailure, InvalidParameter
from service.imaging.label_map import Logits, in_float32
from service.imaging.tiling import Mosaic, Paint, Pixels, Tile, TilePlan, cut
from service.inference.admission import Ticket
from service.inference.codec_threads import CodecThreads
from service.inference.image_queue import ImageQueue

T = TypeVar("T")
InferWindow = Callable[[Pixels], Awaitable[Logits]]
# One batch runs while the next one is cut and the one before is blended.
BATCHES_IN_FLIGHT = 2
# Factor by which the estimate of the engine's time may be wrong.
_TOLERANCE = 2


class RunInThread(Protocol):
    """Runs a job beside the event loop."""

    def __call__(self, job: Callable[[], T], /) -> Awaitable[T]: ...


class TiledInference:
    """Runs images through the engine in windows."""

    def __init__(self, queue: ImageQueue, codec: CodecThreads, num_classes: int, lock: asyncio.Lock) -> None:
        """``codec`` cuts and blends windows; ``lock`` is held by one image at a time, of any model."""
        self._queue = queue
        self._codec = codec
        self._num_classes = num_classes
        self._lock = lock

    @asynccontextmanager
    async def reserve(self, ticket: Ticket) -> AsyncIterator[None]:
        """Wait for the images before this one, which holds no pixels meanwhile.

        One image fills the engine, and may take a gigabyte: two at once would both be later.
        """
        with ticket.stage("queue"):
            await self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    async def run(
        self, pixels: NDArray[np.uint8], plan: TilePlan, paints: Sequence[Paint], ticket: Ticket
    ) -> list[NDArray[np.uint8]]:
        """Run an image (H, W, 3) in windows; give (H, W) uint8 of each paint, made of the blended logits.

        Raises:
            InvalidParameter: At the engine's speed the request's time is far too short; nothing is run.
            EngineFailure: The model failed on a window, or its logits cannot be used.
            Overloaded, Draining, EngineDown, DeadlineExceeded: See ``Slot.run``.
        """
        self._check_time(plan, ticket)

        async def infer(window: NDArray[np.uint8]) -> NDArray[np.float32]:
            async with self._queue.slot(ticket.deadline) as slot:
                np.copyto(slot.image, window)
                row = await slot.run(ticket.deadline, on_start=lambda: ticket.enter("infer", check=False))
                return np.array(in_float32(cast(Logits, row.output)))

        mosaic = Mosaic(plan, self._num_classes, paints)
        in_flight = BATCHES_IN_FLIGHT * self._queue.max_batch_size
        ticket.enter("queue")
        started = time.perf_counter()
        try:
            await segment_tiles(pixels, mosaic, infer=infer, run_in_thread=self._codec.run, max_in_flight=in_flight)
        except ValueError as error:
            raise EngineFailure(f"the model's output for this image cannot be used: {error}") from error
        finally:
            ticket.stopwatch.record("infer", started, time.perf_counter())
        return mosaic.painted

    def _check_time(self, plan: TilePlan, ticket: Ticket) -> None:
        left_s = ticket.deadline - asyncio.get_running_loop().time()
        needed_s = plan.num_windows * self._queue.seconds_per_image
        if needed_s > _TOLERANCE * left_s:
            # No 504: proxies and clients would retry in vain.
            raise InvalidParameter(
                f"mode=tile takes too long: {plan.num_windows} windows take about {needed_s:.0f} s, but only "
                f"{max(0.0, left_s):.0f} s of the request's time are left; ask for more with X-Request-Timeout-Ms, or "
                "use mode=resize",
                extra={"parameter": "mode", "value": "tile", "limit": round(left_s, 1), "unit": "seconds"},
            )


async def segment_tiles(
    pixels: Pixels,
    mosaic: Mosaic,
    *,
    infer: InferWindow,
    run_in_thread: RunInThread,
    max_in_flight: int,
) -> None:
    """Segment an image (H, W, 3) window by window: the mosaic has the result then.

    Args:
        pixels: The image.
        mosaic: Begun for this image.
        infer: Logits (K, h, w) of a window (height, width, 3); raises once the request's time is over.
        run_in_thread: For the work of the CPU.
        max_in_flight: Windows that are with ``infer`` at once, or wait to be blended.

    Raises:
        Exception: Any exception of ``infer`` or the mosaic; the windows in flight are cancelled.
    """

    plan = mosaic.plan

    async def logits_of(tile: Tile) -> Logits:
        return await infer(await run_in_thread(lambda: cut(pixels, tile, plan.window)))

    async def blend_first() -> None:
        tile, task = ahead[0]
        logits = await task
        ahead.popleft()
        await run_in_thread(lambda: mosaic.add(tile, logits))
        if tile.across == len(plan.across) - 1:
            await run_in_thread(lambda: mosaic.finish(tile.band))

    ahead: deque[tuple[Tile, asyncio.Task[Logits]]] = deque()
    try:
        for tile in plan.tiles():
            if len(ahead) == max_in_flight:
                await blend_first()
            ahead.append((tile, asyncio.create_task(logits_of(tile))))
        while ahead:
            await blend_first()
    finally:
        for _, task in ahead:
            task.cancel()
        await asyncio.gather(*(task for _, task in ahead), return_exceptions=True)
