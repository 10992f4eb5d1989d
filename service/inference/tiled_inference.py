"""Tiled inference: windows of a large image through the batcher, one image at a time, if its time suffices."""

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
# Factor by which the estimate of the engine's time may be wrong.
_TOLERANCE = 2


class TiledInference:
    """Runs images through the engine in windows."""

    def __init__(self, batcher: Batcher, codec: Executor, num_classes: int, lock: asyncio.Lock) -> None:
        """``codec`` cuts and blends windows; ``lock`` is held by one image at a time, of any model."""
        self._batcher = batcher
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
            Overloaded, Draining, EngineDown, DeadlineExceeded: See ``Batcher.submit``.
        """
        self._check_time(plan, ticket)

        async def infer(window: NDArray[np.uint8]) -> NDArray[np.float32]:
            row = await self._batcher.submit(
                window, ticket.deadline, on_start=lambda: ticket.enter("infer", check=False)
            )
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
            ticket.stopwatch.record("infer", started, time.perf_counter())
        return mosaic.painted

    def _check_time(self, plan: TilePlan, ticket: Ticket) -> None:
        left_s = ticket.deadline - asyncio.get_running_loop().time()
        needed_s = plan.num_windows * self._batcher.seconds_per_image
        if needed_s > _TOLERANCE * left_s:
            # No 504: proxies and clients would retry in vain.
            raise InvalidParameter(
                f"mode=tile takes too long: {plan.num_windows} windows take about {needed_s:.0f} s, and "
                f"{max(0.0, left_s):.0f} s of the request's time are left; ask for more with X-Request-Timeout-Ms, or "
                "use mode=resize",
                extra={"parameter": "mode", "value": "tile", "limit": round(left_s, 1), "unit": "seconds"},
            )

    async def _run_in_thread(self, job: Callable[[], T], /) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._codec, job)
