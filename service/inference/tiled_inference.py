"""Windows of large images through the batcher: one image at a time, and only where the time suffices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from service.errors import EngineFailure, InvalidParameter
from service.imaging.tiling import Mosaic, Paint, TilePlan, segment_tiles
from service.inference.admission import Ticket
from service.inference.batcher import Batcher

T = TypeVar("T")
# One batch runs while the next one is cut and the one before is blended.
BATCHES_IN_FLIGHT = 2
# How far the engine's speed may be from what was measured last.
_DOUBT = 2


class TiledInference:
    """Gives the maps of images that go through the engine in windows."""

    def __init__(self, batcher: Batcher, codec: Executor, num_classes: int, turn: asyncio.Semaphore) -> None:
        """``codec`` does what the CPU has to do for windows; ``turn`` is held by one image at a time, of any model."""
        self._batcher = batcher
        self._codec = codec
        self._num_classes = num_classes
        self._turn = turn

    @asynccontextmanager
    async def turn(self, ticket: Ticket) -> AsyncIterator[None]:
        """Wait for the images before this one, which holds no pixels meanwhile.

        One image fills the engine, and may take a gigabyte: two at once would both be later.
        """
        ticket.enter("queue")
        with ticket.stopwatch.measure("queue"):
            await self._turn.acquire()
        try:
            yield
        finally:
            self._turn.release()

    async def run(
        self, pixels: NDArray[np.uint8], plan: TilePlan, paints: Sequence[Paint], ticket: Ticket
    ) -> list[NDArray[np.uint8]]:
        """What each paint makes, (H, W) uint8, of the blended logits of an image (H, W, 3).

        Raises:
            InvalidParameter: By the engine's speed the request's time will not suffice by far; nothing is run.
            EngineFailure: The model failed on a window, or gave logits that cannot be used.
            Overloaded, Draining, EngineDown, DeadlineExceeded: See ``Batcher.submit``.
        """
        self._check_time(plan, ticket)

        async def infer(window: NDArray[np.uint8]) -> NDArray[np.float32]:
            row = await self._batcher.submit(window, ticket.deadline, on_start=lambda: ticket.mark("infer"))
            return cast(NDArray[np.float32], row.output)

        mosaic = Mosaic(plan, self._num_classes, paints)
        in_flight = BATCHES_IN_FLIGHT * self._batcher.max_batch_size
        ticket.enter("queue")
        started = time.perf_counter()
        try:
            await segment_tiles(pixels, mosaic, infer=infer, run_in_thread=self._run_in_thread, max_in_flight=in_flight)
        except ValueError as error:
            raise EngineFailure(f"the model's output for this image cannot be used: {error}") from error
        finally:
            ticket.stopwatch.add("infer", time.perf_counter() - started)
        return mosaic.painted

    def _check_time(self, plan: TilePlan, ticket: Ticket) -> None:
        left_s = ticket.deadline - asyncio.get_running_loop().time()
        needed_s = plan.num_windows * self._batcher.seconds_per_image
        if needed_s > _DOUBT * left_s:
            # No 504: proxies and clients would try again what cannot be done.
            raise InvalidParameter(
                f"mode is 'tile': {plan.num_windows} windows take about {needed_s:.0f} s, and {max(0.0, left_s):.0f} s "
                f"of the request's time are left: give it more by X-Request-Timeout-Ms, or use mode=resize",
                extra={"parameter": "mode", "value": "tile", "limit": round(left_s, 1), "unit": "seconds"},
            )

    async def _run_in_thread(self, job: Callable[[], T], /) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._codec, job)
