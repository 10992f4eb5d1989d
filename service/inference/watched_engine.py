"""The engine in its threads, and the watch over it.

An engine that keeps a batch for longer than its time, or that fails on everything, is down until a batch comes back.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from service.engines.base import DirectEngine, Engine, Images, Rows

logger = logging.getLogger(__name__)

# Runs images (h, w, 3) uint8, and writes the output of each where it is wanted.
InferInto = Callable[[Images, Sequence[Rows]], None]
# Seconds between probes of an engine that fails on everything.
_PROBE_INTERVAL_S = 5.0


class WatchedEngine:
    """Runs batches, and marks the engine down or up.

    Attributes:
        free: Places of the engine, one for each batch that it takes at once.
        down: Reason why the engine does not work, one sentence; empty while it works.
    """

    def __init__(
        self,
        infer: InferInto,
        threads: Executor,
        timeout_s: float,
        on_down: Callable[[str], None],
        batches_at_once: int = 1,
    ) -> None:
        """Prepare.

        Args:
            infer: Runs a batch; called in ``threads``.
            threads: Where the engine runs, a thread for each of ``batches_at_once``.
            timeout_s: Seconds after which an engine that keeps a batch is down.
            on_down: Called with the reason when the engine goes down.
            batches_at_once: Batches that the engine takes at once.
        """
        self.free = asyncio.Semaphore(batches_at_once)
        self.down = ""
        self._infer = infer
        self._threads = threads
        self._timeout_s = timeout_s
        self._on_down = on_down
        self._stuck = 0

    async def run(self, images: Images, outputs: Sequence[Rows]) -> None:
        """Run a batch, and write its outputs; the caller holds one of ``free``.

        Raises:
            Exception: Any exception of the engine.
        """
        batch = asyncio.get_running_loop().run_in_executor(self._threads, self._infer, images, outputs)
        try:
            done, _ = await asyncio.wait((batch,), timeout=self._timeout_s if math.isfinite(self._timeout_s) else None)
            if not done:
                self.mark_down(f"the engine has kept a batch of {len(images)} for more than {self._timeout_s:g} s")
                await self._until_unstuck(batch)
            batch.result()
        finally:
            batch.cancel()

    async def _until_unstuck(self, batch: asyncio.Future[None]) -> None:
        self._stuck += 1
        try:
            await asyncio.wait((batch,))
        finally:
            self._stuck -= 1
        self._mark_up()

    async def probe(self, image: NDArray[np.uint8], output: Rows) -> None:
        """Run a black image to tell a broken engine from bad images; repeat until it succeeds.

        Args:
            image: The black image.
            output: Gets its output.
        """
        while True:
            try:
                async with self.free:
                    await self.run([image], [output])
            except Exception as error:
                self.mark_down(f"the engine fails on every image, on a black one too: {text_of(error)}")
            else:
                self._mark_up()
                return
            await asyncio.sleep(_PROBE_INTERVAL_S)

    def mark_down(self, reason: str) -> None:
        """Note that the engine does not work, and fail the waiting images through ``on_down``."""
        if not self.down:
            logger.error("%s; requests are refused", reason)
        self.down = reason
        self._on_down(reason)

    def _mark_up(self) -> None:
        """Note that the engine works, unless it still keeps another batch."""
        if self._stuck:
            return
        if self.down:
            logger.warning("the engine works again; it was down: %s", self.down)
        self.down = ""


def text_of(error: Exception) -> str:
    """Give the text of an exception, or its name if it has none."""
    return str(error) or type(error).__name__


def runner_of(engine: Engine) -> tuple[InferInto, int]:
    """The function that runs an engine's batches, and the number of those that it takes at once."""
    if isinstance(engine, DirectEngine):
        return engine.infer_into, engine.batches_at_once
    return copying(engine.infer), 1


def copying(infer: Callable[[NDArray[np.uint8]], Rows]) -> InferInto:
    """Stack the images for a function that takes (B, h, w, 3), and copy its rows to where they are wanted."""

    def infer_into(images: Images, outputs: Sequence[Rows]) -> None:
        rows = infer(np.stack(images))
        if len(rows) != len(images):
            raise ValueError(f"the engine gave {len(rows)} outputs for {len(images)} images")
        for output, row in zip(outputs, rows, strict=True):
            if (output.dtype, output.shape) != (row.dtype, row.shape):
                raise ValueError(f"the engine gave {row.dtype} {row.shape}, expected {output.dtype} {output.shape}")
            np.copyto(output, row)

    return infer_into
