"""An engine that takes two batches at once, and keeps them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np
import pytest

from service.engines.base import Images, Rows
from service.inference.watched_engine import WatchedEngine
from tests.support.limits import HANG_S

pytestmark = pytest.mark.anyio

OUTPUT = np.zeros((2, 1, 1), np.float32)
IMAGES = [np.full((4, 4, 3), place, np.uint8) for place in range(2)]


class Kept:
    """An engine that keeps each image until its gate is open.

    Attributes:
        gates: Gates by the image's place in ``IMAGES``.
        reasons: Reasons for which the engine went down.
    """

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.gates = [threading.Event() for _ in IMAGES]
        self.reasons: asyncio.Queue[str] = asyncio.Queue()
        self.engine = WatchedEngine(self._infer, threads, 0.01, self.reasons.put_nowait, batches_at_once=2)

    def _infer(self, images: Images, outputs: Sequence[Rows]) -> None:
        assert self.gates[images[0][0, 0, 0]].wait(HANG_S)

    async def keep(self, place: int) -> asyncio.Task[None]:
        """Run an image until the engine is down for it."""
        task = asyncio.create_task(self.engine.run([IMAGES[place]], [OUTPUT]))
        assert "kept a batch of 1 for more than 0.01 s" in await self.reasons.get()
        return task


@asynccontextmanager
async def kept_engine() -> AsyncIterator[Kept]:
    with ThreadPoolExecutor(2) as threads:
        kept = Kept(threads)
        try:
            async with asyncio.timeout(HANG_S):
                yield kept
        finally:
            for gate in kept.gates:
                gate.set()


async def test_an_engine_is_up_once_it_has_returned_every_batch_that_it_kept() -> None:
    async with kept_engine() as kept:
        tasks = [await kept.keep(place) for place in range(2)]
        kept.gates[0].set()
        await tasks[0]
        assert "kept a batch" in kept.engine.down
        kept.gates[1].set()
        await tasks[1]
        assert kept.engine.down == ""


async def test_a_probe_that_succeeds_beside_a_kept_batch_leaves_the_engine_down() -> None:
    async with kept_engine() as kept:
        task = await kept.keep(0)
        kept.gates[1].set()
        await kept.engine.probe(IMAGES[1], OUTPUT)
        assert "kept a batch" in kept.engine.down
        kept.gates[0].set()
        await task
        assert kept.engine.down == ""
