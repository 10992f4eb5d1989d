"""The engine in its thread, one batch at a time, and the watch over it.

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

from service.engines.base import Rows

logger = logging.getLogger(__name__)

Infer = Callable[[NDArray[np.uint8]], Rows]
Images = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
# Seconds between probes of an engine that fails on everything.
_PROBE_INTERVAL_S = 5.0


class WatchedEngine:
    """Runs batches, and marks the engine down or up.

    Attributes:
        free: Lock of the engine.
        down: Reason why the engine does not work, one sentence; empty while it works.
    """

    def __init__(self, infer: Infer, thread: Executor, timeout_s: float, on_down: Callable[[str], None]) -> None:
        """Prepare.

        Args:
            infer: Images (B, h, w, 3) uint8 to B rows; called in ``thread``, never twice at once.
            thread: Where the engine runs; its one thread keeps the event loop free.
            timeout_s: Seconds after which an engine that keeps a batch is down.
            on_down: Called with the reason when the engine goes down.
        """
        self.free = asyncio.Lock()
        self.down = ""
        self._infer = infer
        self._thread = thread
        self._timeout_s = timeout_s
        self._on_down = on_down

    async def run(self, images: Images) -> Rows:
        """Run a batch; the caller holds ``free``.

        Raises:
            Exception: Any exception of the engine.
        """
        batch = asyncio.get_running_loop().run_in_executor(self._thread, _infer_images, self._infer, images)
        try:
            done, _ = await asyncio.wait((batch,), timeout=self._timeout_s if math.isfinite(self._timeout_s) else None)
            if not done:
                self.mark_down(f"the engine has kept a batch of {len(images)} for more than {self._timeout_s:g} s")
                await asyncio.wait((batch,))
                self._mark_up()
            return batch.result()
        finally:
            batch.cancel()

    async def probe(self, image: NDArray[np.uint8]) -> None:
        """Run a black image to tell a broken engine from bad images; repeat until it succeeds."""
        while True:
            try:
                async with self.free:
                    await self.run([image])
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
        if self.down:
            logger.warning("the engine works again; it was down: %s", self.down)
        self.down = ""


def stacked(images: Images) -> NDArray[np.uint8]:
    """Stack images (h, w, 3) to (B, h, w, 3); a batch is given as it is."""
    return images if isinstance(images, np.ndarray) else np.stack(images)


def text_of(error: Exception) -> str:
    """Give the text of an exception, or its name if it has none."""
    return str(error) or type(error).__name__


def _infer_images(infer: Infer, images: Images) -> Rows:
    """Run in the engine's thread."""
    rows = infer(stacked(images))
    if len(rows) != len(images):
        raise ValueError(f"the engine gave {len(rows)} outputs for {len(images)} images")
    return rows
